"""The examples in docstrings: those with a prompt are executed, the others are compiled and their names looked up."""

from __future__ import annotations

import ast
import doctest
import inspect
import io
import re
import subprocess
import sys
import textwrap
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest

import meteor_agents as meteor

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "transformers", "deepspeed", "peft", "numpy", "sglang"}
"""Libraries that take seconds to import. Examples of a module that imports one at its top are compiled only."""
SHOWN = ("ChatModel", "Run", "Trainer", "Verifier", "load_settings", "open_run", "read_run")
"""Public names that a user begins with or implements: each shows how."""


def with_prompts() -> dict[str, Path]:
    """Import name -> file of every module of the package whose source holds a prompt."""
    found = {}
    for top in ("meteor_agents", "backends", "cli"):
        for path in sorted((ROOT / top).rglob("*.py")):
            through_a_link = any(folder.is_symlink() for folder in path.parents)
            if through_a_link or ">>>" not in path.read_text(encoding="utf-8"):
                continue
            parts = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
            found[".".join(parts if top == "meteor_agents" else ["meteor_agents", *parts])] = path
    return found


def imports_at_the_top(path: Path) -> set[str]:
    """The outermost packages that a module imports when it is imported itself."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


PROMPTED = with_prompts()
EXECUTED = [name for name, path in PROMPTED.items() if not imports_at_the_top(path) & HEAVY]
WRITTEN = [name for name in ("", *meteor.__all__) if name != "__version__"]
"""The public names, and the package itself as the empty one."""


@pytest.mark.parametrize("name", EXECUTED)
def test_an_example_with_a_prompt_gives_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner, told = doctest.DocTestRunner(verbose=False), io.StringIO()
    with redirect_stdout(told):
        for example in doctest.DocTestFinder().find(import_module(name)):
            runner.run(example)
    assert runner.failures == 0, told.getvalue()
    prompts = PROMPTED[name].read_text(encoding="utf-8").count(">>> ")
    assert runner.tries == prompts, "an example stands where it is not found, or is skipped"


def test_a_wrong_example_fails() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 6 * 7\n41\n", {}, "wrong", None, None)
    with redirect_stdout(io.StringIO()):
        assert doctest.DocTestRunner(verbose=False).run(wrong).failed == 1


def test_modules_with_executed_examples_load_no_heavy_library() -> None:
    program = f"import sys\nfor name in {EXECUTED}: __import__(name)\nprint(*{HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", sorted(set(PROMPTED) - set(EXECUTED)))
def test_an_example_that_needs_a_heavy_library_is_python(name: str) -> None:
    tree = ast.parse(PROMPTED[name].read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    examples = [example for text in texts for example in doctest.DocTestParser().get_examples(text)]
    assert examples
    for example in examples:
        compile(example.source, name, "single")


@pytest.mark.parametrize("name", WRITTEN)
def test_an_example_without_a_prompt_compiles_and_uses_names_that_exist(name: str) -> None:
    for code in shown(name):
        tree = compile(code, name or "meteor_agents", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        compile(code, name or "meteor_agents", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        used = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
        known = {"meteor": set(meteor.__all__), "run": set(dir(meteor.Run))}
        unknown = [ast.unparse(n) for n in used if n.attr not in known.get(ast.unparse(n.value), {n.attr})]
        assert unknown == []


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_user_begins_with_or_implements_has_an_example(name: str) -> None:
    text = docstring(name)
    assert doctest.DocTestParser().get_examples(text) or shown(name)


def shown(name: str) -> list[str]:
    """The indented blocks of a docstring that are code without a prompt: those after a line that ends with a colon."""
    text = docstring(name)
    blocks = re.findall(r"(?:^|\n)(?:Example.*:\n|.*:\n\n|.*\.\n\n)((?: {4}.*(?:\n|$)|\n)+)", text)
    return [textwrap.dedent(block) for block in blocks if ">>>" not in block]


def docstring(name: str) -> str:
    """The docstring of a public name, or of the package for an empty one, without its indentation."""
    return inspect.getdoc(getattr(meteor, name) if name else meteor) or ""
