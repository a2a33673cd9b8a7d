"""The house: which room may import which, no circles, no vendor in the core, and files and folders of a readable size."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("backends", "cli", "configs", "prompts")
"""Top-level folders that are packages inside `meteor_agents`."""

GROUND = {path.stem for path in (ROOT / "meteor_agents").glob("*.py")} - {"__init__"}
"""Modules beside the rooms. They import one another and nothing else of ours."""

MAY_IMPORT: dict[str, set[str]] = {
    "ground": set(),
    "verifiers": {"ground"},
    "settings": {"ground"},
    "data": {"ground", "settings"},
    "method": {"ground", "verifiers", "settings"},
    "store": {"ground", "settings", "data", "method"},
    "evaluation": {"ground", "settings", "method"},
    "calls": {"ground", "settings", "store"},
    "pipeline": {"ground", "verifiers", "settings", "data", "method", "store", "evaluation", "calls"},
    "analysis": {"ground", "settings", "data", "method", "store", "evaluation", "calls", "pipeline"},
    "report": {"ground", "settings", "data", "method", "store", "evaluation", "pipeline", "analysis"},
    "backends": {"ground", "settings"},
    "backends.http": {"ground", "settings", "backends"},
    "backends.local": {"ground", "settings", "backends"},
    "backends.sglang_servers": {"ground", "settings", "backends", "backends.http"},
    "backends.training": {"ground", "settings", "backends", "backends.local", "backends.training.ranks"},
    "backends.training.ranks": {"ground", "backends.local", "backends.training"},
    "assembly": {
        "ground", "verifiers", "settings", "data", "method", "store", "evaluation", "calls", "pipeline", "analysis",
        "backends", "backends.local",
    },
    "cli": {
        "ground", "verifiers", "settings", "data", "method", "store", "evaluation", "calls", "pipeline", "analysis",
        "report", "assembly", "backends", "backends.local",
    },
}  # fmt: skip
"""Room -> the rooms that it may import. `backends.registry` and `backends.base_model` also open what is in the sub-rooms."""
OPENERS = {"meteor_agents.backends.registry", "meteor_agents.backends.base_model"}
"""The modules of `backends` that import its sub-rooms, when a backend is asked for by name."""


def test_rooms_import_only_what_the_table_allows() -> None:
    wrong = [
        f"{module} imports {target}: {room_of(module)} -> {room_of(target)}"
        for module, targets in imports().items()
        for target in targets
        if room_of(target) not in {room_of(module), *MAY_IMPORT.get(room_of(module), set(MAY_IMPORT))}
        and not (module in OPENERS and room_of(target).startswith("backends"))
    ]
    assert not wrong


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(module) for module in imports()} - {"face"}
    assert rooms == set(MAY_IMPORT)


def test_no_room_has_more_than_twelve_files() -> None:
    """`__init__` is not counted, nor the ground, whose modules have no room."""
    rooms: dict[str, list[str]] = {}
    for module, path in modules():
        if path.name != "__init__.py" and room_of(module) != "ground":
            rooms.setdefault(module.rpartition(".")[0], []).append(path.name)
    assert len(rooms) > 20
    assert not {room: names for room, names in rooms.items() if len(names) > 12}


def test_the_table_has_no_circle_but_that_of_the_trainer_and_its_ranks() -> None:
    """The process boundary: the trainer starts the ranks' program, which reads the folder that the trainer wrote."""
    allowed = {room: targets - {"backends.training"} if room.endswith("ranks") else targets
               for room, targets in MAY_IMPORT.items()}  # fmt: skip
    assert not circles(allowed)


def test_no_module_imports_itself_in_a_circle() -> None:
    """Lazy imports and those for type checkers are counted too."""
    assert not circles(imports())


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")])
def test_a_circle_is_found(names: tuple[str, ...]) -> None:
    ring = {name: {names[(i + 1) % len(names)]} for i, name in enumerate(names)}
    assert circles(ring | {"d": {"a"}}) == [set(names)]


@cache
def imports() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, wherever in it the import stands."""
    files = dict(modules())
    return {name: {t for t in _targets(name, path, files) if t != name} for name, path in files.items()}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the core, the backends and the command line, under its import name."""
    for top in ("meteor_agents", "backends", "cli"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if top == "meteor_agents" and parts[1] in OUTSIDE:
                continue
            parts = parts if top == "meteor_agents" else ("meteor_agents", *parts)
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _targets(module: str, path: Path, files: dict[str, Path]) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                name = f"{source}.{alias.name}"
                if name in files:
                    yield name
                elif source in files and alias.name not in OUTSIDE:
                    yield source


def room_of(module: str) -> str:
    """The room of a module: its package, below `meteor_agents`."""
    parts = module.split(".")[1:]
    if not parts:
        return "face"
    if parts[0] in GROUND:
        return "ground"
    if parts[0] == "backends":
        rooms = [room for room in MAY_IMPORT if f"meteor_agents.{room}" == module or
                 module.startswith(f"meteor_agents.{room}.")]  # fmt: skip
        return max(rooms, key=len)
    return parts[0]


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of names that reach one another."""
    reached = {name: _reachable(name, graph) for name in graph}
    groups = [{other for other in reached[name] if name in reached[other]} for name in graph if name in reached[name]]
    return [group for i, group in enumerate(groups) if group not in groups[:i]]


def _reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    ahead = list(graph.get(start, ()))
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += graph.get(name, ())
    return seen
