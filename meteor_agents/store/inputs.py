"""What a run was given besides its settings, kept in its directory: with it, a run can be replayed on another machine.

inputs/prompts/*.jinja    the templates in use
inputs/held-out.jsonl     the held-out questions, each with the set that it belongs to; traces hold the others
inputs/files/             what the verifier reads: a database, the module of a user's function
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from meteor_agents.errors import StoreError
from meteor_agents.messages import Question
from meteor_agents.method.templates import SUFFIX, VARIABLES, Templates
from meteor_agents.settings.run import Settings

INPUTS = "inputs"
MOST_BYTES = 64 * 2**20
"""A larger file of a verifier is not copied; a replay has to be told where it is."""


class Inputs:
    """The folder `inputs` of a run directory."""

    def __init__(self, run: Path) -> None:
        self._folder = run / INPUTS
        self.prompts = self._folder / "prompts"
        self.files = self._folder / "files"
        self._heldout = self._folder / "held-out.jsonl"

    @property
    def exist(self) -> bool:
        """Runs of earlier versions kept none."""
        return self._folder.is_dir()

    def keep(
        self, settings: Settings, base: Path, templates: Templates, heldout: Mapping[str, Sequence[Question]]
    ) -> None:
        """Write what is not there yet; `base` is where the verifier's relative paths start. Raises `OSError`."""
        for name in VARIABLES:
            _write(self.prompts / f"{name}{SUFFIX}", templates.source(name).text)
        known = self.heldout()
        for set_, questions in heldout.items():
            known.setdefault(set_, {}).update({question.id: question for question in questions})
        lines = [
            json.dumps({"set": set_, "question": question.model_dump(mode="json")}, ensure_ascii=False) + "\n"
            for set_, questions in known.items()
            for question in questions.values()
        ]
        _write(self._heldout, "".join(lines))
        for path in _files_of_verifier(settings, base):
            self.files.mkdir(parents=True, exist_ok=True)
            copy = self.files / path.name
            if not copy.exists() or copy.stat().st_mtime < path.stat().st_mtime:
                shutil.copy2(path, copy)

    def heldout(self) -> dict[str, dict[str, Question]]:
        """Set -> id -> question. Raises `StoreError` if the file is damaged."""
        found: dict[str, dict[str, Question]] = {}
        if self._heldout.exists():
            try:
                for line in filter(None, self._heldout.read_text(encoding="utf-8").split("\n")):
                    row = json.loads(line)
                    question = Question.model_validate(row["question"])
                    found.setdefault(row["set"], {})[question.id] = question
            except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
                raise StoreError(f"{self._heldout} is damaged ({error}): restore it from a copy, or remove it") from error
        return found

    def own_options(self, options: Mapping[str, object]) -> dict[str, object]:
        """A verifier's options, with the files that are kept here instead of the user's."""
        return {name: self._own(value) for name, value in options.items()}

    def _own(self, value: object) -> object:
        own = self.files / Path(value).name if isinstance(value, str) and value else None
        return str(own.resolve()) if own is not None and own.is_file() else value


def _files_of_verifier(settings: Settings, base: Path) -> Iterator[Path]:
    judge = settings.judge
    named = [value for value in judge.options.values() if isinstance(value, str) and value]
    if judge.verifier and ":" in judge.verifier:
        named.append(f"{judge.verifier.partition(':')[0].partition('.')[0]}.py")
    for name in named if judge.verifier else ():
        path = base / name
        if path.is_file() and path.stat().st_size <= MOST_BYTES:
            yield path


def _write(path: Path, text: str) -> None:
    """All or nothing, and only what is new."""
    content = text.encode()
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_bytes(content)
    scratch.replace(path)
