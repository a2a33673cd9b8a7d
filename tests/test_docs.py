"""The documentation names only files, modules, commands and options that exist, and its links lead somewhere.

The tree in docs/architecture.md is the tree of the repository: every room is in it, and a room that lists files lists all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from meteor_agents.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
TOPS = ("meteor_agents", "backends", "cli", "prompts", "configs", "benchmarks", "tests", "docs")
ELSEWHERE = {
    "get_guideline.py", "get_distill_data.py", "finetune.py", "get_iterative_training_dataset.py", "self_training.py",
    "evaluate.py",
}  # fmt: skip
"""Scripts of the published code (docs/paper.md)."""
READERS_OWN = {"parrot.py", "checks.py"}
"""Files that a page has its reader write."""


class Word(NamedTuple):
    """One word of code on a page, with the line that it stands in."""

    page: Path
    line: str
    word: str


def test_relative_links_lead_to_a_file_and_to_a_heading() -> None:
    wrong = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, heading = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (heading and heading not in _headings(file)):
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong


def test_named_files_exist() -> None:
    wrong = [_told(found) for found in _words(PAGES) if _looks_like_a_file(found.word) and not _exists(found.word)]
    assert not wrong


def test_named_modules_exist() -> None:
    wrong = [_told(found) for found in _words(PAGES)
             for name in re.findall(r"\bmeteor_agents(?:\.\w+)+", found.word)
             if not name.endswith(".py") and not _is_importable(name)]  # fmt: skip
    assert not wrong


def test_named_commands_and_options_exist() -> None:
    known = _commands(typer.main.get_command(app))
    wrong = []
    for page in PAGES:
        for line in (*_spans(page), *_shell_lines(page)):
            for given in re.findall(r"(?:^|[ /])meteor ([a-z][^|;&\\]*)", line):
                words = given.replace("[", "").replace("]", "").split()
                command = next((name for n in (2, 1) if (name := " ".join(words[:n])) in known), None)
                if command is None or {word for word in words if word.startswith("--")} - known[command]:
                    wrong.append(f"{page.relative_to(ROOT)}: meteor {given}")
    assert len(known) > 10
    assert not wrong


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = [line for page in PAGES for line in (*_spans(page), *_shell_lines(page))]
    asked = {name for line in code for name in re.findall(r"^make (?:[A-Z]+=\S* )*([a-z][a-z-]*)", line)}
    assert asked
    assert not asked - targets


# the tree in docs/architecture.md ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [ARCHITECTURE, ROOT / "README.md"], ids=lambda page: page.name)
def test_every_entry_of_the_tree_exists(page: Path) -> None:
    entries = list(_tree(page))
    assert entries
    assert not [entry for entry in entries if not (ROOT / entry).exists()]


def test_every_room_is_in_the_tree() -> None:
    rooms = {path.rpartition("/")[0] for path in _files() if path.endswith("/__init__.py")}
    rooms = {room for room in rooms if not room.startswith("tests/")}
    assert not rooms - {entry.rstrip("/") for entry in _tree()}


def test_a_room_that_lists_files_lists_all_of_them() -> None:
    listed: dict[str, set[str]] = {}
    for entry in _tree():
        room, _, name = entry.rpartition("/")
        if name.endswith(".py"):
            listed.setdefault(room, set()).add(name)
    there = {room: {path.name for path in (ROOT / room).glob("*.py")} - {"__init__.py", "__main__.py"} for room in listed}
    assert listed
    assert {room: names ^ there[room] for room, names in listed.items() if names != there[room]} == {}


def _tree(page: Path = ARCHITECTURE) -> Iterator[str]:
    """Paths in a page's tree; folders end in a slash. Names on one line share its remark, two spaces behind them."""
    block = next(block for block in _fences(page) if block.startswith("meteor_agents/"))
    folders: list[str] = []
    for line in block.splitlines():
        names = re.split(r" {2,}", line.strip())[0].split()
        del folders[(len(line) - len(line.lstrip())) // 2 :]
        yield from ("".join((*folders, name)) for name in names)
        if names[0].endswith("/"):
            folders.append(names[0])


# what stands on the pages --------------------------------------------------------------------------------------------


def _words(pages: list[Path]) -> Iterator[Word]:
    for page in pages:
        shown = [line for block in _fences(page) if not _is_tree(block) for line in block.splitlines()]
        for line in (*_spans(page), *shown):
            yield from (Word(page, line, word.strip("`'\"(),;:…")) for word in line.split())


def _looks_like_a_file(word: str) -> bool:
    if re.search(r"[*<>{}$|=…]", word) or "://" in word or not re.fullmatch(r"[\w./#-]+", word):
        return False
    inside = word.partition("/")[0] in TOPS and "/" in word
    return inside or (word.endswith(".py") and "/" not in word.lstrip("./"))


def _exists(word: str) -> bool:
    """Whether a file of the repository has this path, or ends in it: a page on one room may leave the room out."""
    path = word.partition("#")[0].rstrip("/.")
    if path in ELSEWHERE | READERS_OWN or (ROOT / path).exists():
        return True
    return any(known.endswith(f"/{path}") for known in _files())


def _is_importable(name: str) -> bool:
    """Whether this is a module of ours, or a name that stands in one."""
    parts = name.split(".")[1:]
    for end in range(len(parts), -1, -1):
        path = ROOT.joinpath("meteor_agents", *parts[:end])
        file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if file.is_file():
            rest = parts[end : end + 1]
            return not rest or re.search(rf"\b{rest[0]}\b", file.read_text(encoding="utf-8")) is not None
    return False


def _commands(command: Any, name: str = "") -> dict[str, set[str]]:
    """Command -> its options. `prompts export` is a command of a group."""
    inner: dict[str, Any] = getattr(command, "commands", {})
    found = {} if inner else {name: {"--help", *(option for given in command.params for option in given.opts)}}
    for word, further in inner.items():
        found |= _commands(further, f"{name} {word}".strip())
    return found


def _shell_lines(page: Path) -> list[str]:
    blocks = re.findall(r"^```(?:sh|console|bash)\n(.*?)^```$", _text(page), re.DOTALL | re.MULTILINE)
    return [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]


def _fences(page: Path) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", _text(page), re.DOTALL | re.MULTILINE)


def _spans(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", _text(page), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def _is_tree(block: str) -> bool:
    return block.startswith("meteor_agents/") or block.startswith("runs/")


def _without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", _text(page), flags=re.DOTALL | re.MULTILINE)


def _headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them: lower case, spaces to hyphens, punctuation gone."""
    titles = re.findall(r"^#+ (.+)$", _text(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def _told(found: Word) -> str:
    return f"{found.page.relative_to(ROOT)}: {found.word} (in: {found.line})"


@cache
def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def _files() -> frozenset[str]:
    """Files of the repository, by their paths in it. The links inside `meteor_agents` are not followed."""
    folders = [path for top in TOPS for path in (ROOT / top).iterdir() if path.is_dir() and not path.is_symlink()]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    found += [path for top in ("", *TOPS) for path in (ROOT / top).iterdir() if path.is_file()]
    return frozenset(path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts)
