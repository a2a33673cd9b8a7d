"""Every public module, class, function and method has a docstring, and none begins as a sentence cannot."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STUMBLES = ("Of ", "In the place of")
"""Beginnings that leave the reader without the thing that is described."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[str]:
    """Every source file of the package, relative to the root; each once, though links show some a second time."""
    tops = (ROOT / top for top in ("meteor_agents", "backends", "cli"))
    files = (path for top in tops for path in sorted(top.rglob("*.py")))
    return [str(path.relative_to(ROOT)) for path in files if not any(folder.is_symlink() for folder in path.parents)]


SOURCES = sources()


def test_all_parts_of_the_package_are_looked_at_once() -> None:
    assert {"meteor_agents/__init__.py", "backends/registry.py", "cli/app.py"} <= set(SOURCES)
    assert not [name for name in SOURCES if name.startswith(("meteor_agents/backends/", "meteor_agents/cli/"))]


@pytest.mark.parametrize("name", SOURCES)
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert undocumented((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", SOURCES)
def test_no_docstring_begins_without_its_subject(name: str) -> None:
    assert stumbling((ROOT / name).read_text(encoding="utf-8")) == []


def test_a_missing_docstring_is_found() -> None:
    source = "class A:\n    def b(self): ...\n    def _c(self): ...\nasync def d(): ...\ndef _e(): ...\n"
    assert undocumented(source) == ["module", "A", "A.b", "d"]
    documented = '"""M."""\nclass A:\n    """A."""\n    def b(self):\n        """B."""\nclass _D:\n    def e(self): ...\n'
    assert undocumented(documented) == []


def test_a_docstring_after_the_first_statement_does_not_count() -> None:
    assert undocumented('"""M."""\ndef a():\n    b()\n    """Too late."""\n') == ["a"]


def test_an_override_of_a_special_method_needs_no_docstring() -> None:
    assert undocumented('"""M."""\nclass A:\n    """A."""\n    def __len__(self): ...\n') == []


def test_a_stumbling_docstring_is_found_on_a_field_and_in_a_private_function() -> None:
    source = '"""M."""\nLIMIT = 3\n"""Of a reply."""\ndef _a():\n    """\n    In the place of b."""\n    x = "Of old"\n'
    assert stumbling(source) == ["line 3: Of a reply.", "line 5: In the place of b."]


def undocumented(source: str) -> list[str]:
    """The public names of a source text that have no docstring, by qualified name; `module` for the text itself."""
    tree = ast.parse(source)
    named: list[tuple[str, Documented]] = [("module", tree), *public(tree, "")]
    return [name for name, node in named if not (ast.get_docstring(node) or "").strip()]


def public(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Documented]]:
    """Classes, functions and methods whose names, and whose classes' names, have no leading underscore."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


def stumbling(source: str) -> list[str]:
    """Docstrings and attribute docstrings with a beginning of `STUMBLES`, each with its line."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr)]
    texts = [
        (node.lineno, node.value.value.strip())
        for node in statements
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return [f"line {line}: {text.splitlines()[0]}" for line, text in sorted(texts) if text.startswith(STUMBLES)]
