"""The package that is built: what is in it, what may import what, and what importing the command line costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from importlib.util import resolve_name
from pathlib import Path
from shutil import copyfile, copytree, ignore_patterns

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "meteor_agents"
LINKED = ("backends", "cli", "configs", "prompts")
CORE_FILES = sorted(path for path in CORE.rglob("*.py") if path.relative_to(CORE).parts[0] not in LINKED)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HEAVY = {"torch", "transformers", "deepspeed", "peft", "sglang", "pyarrow", "aiohttp", "numpy", "plotly", "rapidfuzz"}
"""What only some commands need, and what would make each of them slow."""

CORE_MAY_IMPORT = {"pydantic", "pydantic_core", "jinja2"}
MORE_FOR = {
    "calls/retrying.py": {"tenacity"},
    "calls/windows.py": {"asyncio_throttle"},
    "data/parquet_rows.py": {"pyarrow"},
    "verifiers/mathematics.py": {"math_verify"},
    "data/near_duplicates.py": {"rapidfuzz"},
    "assembly/config_file.py": {"yaml"},
    "report/about.py": {"yaml"},
    "settings/yaml_text.py": {"yaml"},
}
"""File -> the libraries that it is built on, or that it imports when they are needed."""


# What is in the wheel


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Built from the tree without the links, and from an sdist with them there: neither may depend on them."""
    linked, plain = (tmp_path_factory.mktemp(name) for name in ("linked", "plain"))
    for tree in (linked, plain):
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            copyfile(ROOT / name, tree / name)
        for name in ("meteor_agents", *LINKED):
            copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore_patterns("__pycache__"))
    for name in LINKED:
        (plain / "meteor_agents" / name).unlink()
    return {"tree": _build(plain, "--wheel"), "sdist": _build(linked)}


def _build(tree: Path, *what: str) -> Path:
    """The wheel; without `--wheel` it is made from an sdist, which is made first."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tree / "dist"), *what, str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,) = (tree / "dist").glob("*.whl")
    return wheel


def _tree_as_installed() -> set[str]:
    """Every file of the package, as the path that it should have in the wheel."""
    folders = {ROOT / name: f"meteor_agents/{name}" for name in LINKED} | {CORE: "meteor_agents"}
    return {
        f"{target}/{path.relative_to(folder).as_posix()}"
        for folder, target in folders.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


@pytest.mark.parametrize("source", ["tree", "sdist"])
def test_wheel_holds_every_file_of_the_package_and_no_other(wheels: dict[str, Path], source: str) -> None:
    with zipfile.ZipFile(wheels[source]) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {"meteor_agents/prompts/student_attempt.jinja", "meteor_agents/configs/quickstart.yaml"} <= files
    assert files == _tree_as_installed()


@pytest.mark.parametrize("source", ["tree", "sdist"])
def test_wheel_has_one_import_name(wheels: dict[str, Path], source: str) -> None:
    with zipfile.ZipFile(wheels[source]) as wheel:
        tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"meteor_agents", f"meteor_agents-{PROJECT['version']}.dist-info"}


def test_wheel_has_the_command_and_the_licence(wheels: dict[str, Path]) -> None:
    info = f"meteor_agents-{PROJECT['version']}.dist-info"
    with zipfile.ZipFile(wheels["tree"]) as wheel:
        assert "meteor = meteor_agents.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
        assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


# What may import what


@pytest.mark.parametrize("name", LINKED)
def test_link_shows_tools_the_folder_under_its_import_name(name: str) -> None:
    link = CORE / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", name)
    assert (link / "__init__.py").samefile(ROOT / name / "__init__.py")


def test_no_file_is_named_like_a_dependency() -> None:
    dependencies = _import_names_of_dependencies()
    assert {"yaml", "deepspeed", "asyncio_throttle", "torch"} <= dependencies
    ours = {path.stem for name in ("meteor_agents", *LINKED) for path in (ROOT / name).rglob("*.py")}
    assert not ours & dependencies


def _import_names_of_dependencies() -> set[str]:
    extras = (line for lines in PROJECT["optional-dependencies"].values() for line in lines)
    lines = [*PROJECT["dependencies"], *extras]
    wanted = {_normal(match.group()) for line in lines if (match := re.match(r"[\w.-]+", line))}
    installed = {
        module for module, names in packages_distributions().items() if wanted & {_normal(name) for name in names}
    }
    return installed | {name.replace("-", "_") for name in wanted}


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.relative_to(CORE).as_posix())
def test_core_imports_neither_backends_nor_the_command_line(path: Path) -> None:
    forbidden = {"meteor_agents.cli"} if "assembly" in path.parts else {"meteor_agents.backends", "meteor_agents.cli"}
    assert not [name for name in _imports(path) if any(name == f or name.startswith(f"{f}.") for f in forbidden)]


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.relative_to(CORE).as_posix())
def test_core_needs_few_libraries(path: Path) -> None:
    more = MORE_FOR.get(path.relative_to(CORE).as_posix(), set())
    known = CORE_MAY_IMPORT | more | sys.stdlib_module_names | {"meteor_agents"}
    assert {name.partition(".")[0] for name in _imports(path)} <= known


def _imports(path: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, wherever in it."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def test_core_files_were_found() -> None:
    assert {"pipeline.py", "run.py", "__init__.py"} <= {path.name for path in CORE_FILES}


# What importing costs


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, meteor_agents.cli.app; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "meteor_agents" in loaded
    assert not loaded & HEAVY


def test_command_line_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "meteor_agents.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "self-train" in done.stdout
