"""The files through which the trainer and its ranks talk: one folder for each job."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from meteor_agents.errors import MeteorError, NothingToTrainError, TrainingError
from meteor_agents.training import TrainingJob, TrainingReport, TrainingRow

_ROW: TypeAdapter[TrainingRow] = TypeAdapter(TrainingRow)


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """The files of one job, in a folder.

    The trainer writes job, rows and config. The ranks write progress, checkpoint, optimizer and, last, report or failure.
    """

    path: Path

    @classmethod
    def beside(cls, checkpoint: Path) -> WorkFolder:
        """Where the job is done whose checkpoint gets that folder."""
        return cls(checkpoint.absolute().with_name(f".work-{checkpoint.name}"))

    @property
    def job(self) -> Path:
        """The job without its rows, as JSON."""
        return self.path / "job.json"

    @property
    def rows(self) -> Path:
        """One row a line, as JSON."""
        return self.path / "rows.jsonl"

    @property
    def config(self) -> Path:
        """DeepSpeed's configuration, before a rank adds what depends on the hardware and the rows."""
        return self.path / "deepspeed.json"

    @property
    def progress(self) -> Path:
        """One step or note a line, as JSON; read while it grows."""
        return self.path / "progress.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The new checkpoint, a folder; complete when there is a report."""
        return self.path / "checkpoint"

    @property
    def optimizer(self) -> Path:
        """The optimizer's state, a folder, if the job keeps it."""
        return self.path / "optimizer"

    @property
    def board(self) -> Path:
        """The folder of the job's TensorBoard files, which stays."""
        return self.path.parent / "tensorboard" / self.path.name.removeprefix(".work-")

    @property
    def report(self) -> Path:
        """The `TrainingReport`, written when everything else is there."""
        return self.path / "report.json"

    @property
    def failure(self) -> Path:
        """Why the job cannot be done. Absent when the ranks ended for another reason."""
        return self.path / "failure.json"

    def write(self, job: TrainingJob, config: dict[str, Any]) -> None:
        """Make the folder with the job and its DeepSpeed configuration in it."""
        self.path.mkdir(parents=True)
        start = job.start.model_copy(update={"path": job.start.path.resolve()})
        head = job.model_copy(update={"start": start}).model_dump(mode="json", exclude={"rows"})
        self.job.write_text(json.dumps(head, indent=1), encoding="utf-8")
        with self.rows.open("w", encoding="utf-8") as file:
            file.writelines(row.model_dump_json() + "\n" for row in job.rows)
        self.config.write_text(json.dumps(config, indent=1), encoding="utf-8")

    def read(self) -> tuple[TrainingJob, dict[str, Any]]:
        """The job and the configuration that `write` was given."""
        head = json.loads(self.job.read_text(encoding="utf-8"))
        with self.rows.open(encoding="utf-8") as file:
            job = TrainingJob(**head, rows=tuple(_ROW.validate_json(line) for line in file))
        return job, json.loads(self.config.read_text(encoding="utf-8"))

    def append_progress(self, record: dict[str, Any]) -> None:
        """Add a line: `kind` is `step` or `note`, the rest are fields of `TrainingProgress` or `TrainingNote`."""
        with self.progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_report(self, report: TrainingReport) -> None:
        """Say that the job is done."""
        self._write_whole(self.report, report.model_dump_json())

    def write_failure(self, error: MeteorError) -> None:
        """Say that the job cannot be done, and why. Several ranks may say so."""
        self._write_whole(self.failure, json.dumps({"error": type(error).__name__, "text": str(error)}))

    def read_failure(self) -> MeteorError | None:
        """The error that a rank raised, as `NothingToTrainError` or `TrainingError`. None when there is none."""
        if not self.failure.is_file():
            return None
        told = json.loads(self.failure.read_text(encoding="utf-8"))
        kind = NothingToTrainError if told["error"] == NothingToTrainError.__name__ else TrainingError
        return kind(told["text"])

    def _write_whole(self, file: Path, text: str) -> None:
        """Write a file that a reader sees whole or not at all, also when several ranks write it."""
        half = file.with_name(f"{file.name}.{os.getpid()}")
        half.write_text(text, encoding="utf-8")
        half.replace(file)


class ProgressTail:
    """Reads a growing file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_records(self) -> list[dict[str, Any]]:
        """The records since the last call, from whole lines only. A file that is not there yet has none."""
        return list(self._records())

    def _records(self) -> Iterator[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                lines = file.readlines()
        except FileNotFoundError:
            return
        for line in lines:
            if not line.endswith(b"\n"):
                return
            self._offset += len(line)
            yield json.loads(line)
