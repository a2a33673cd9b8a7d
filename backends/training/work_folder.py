"""The files through which a trainer and its worker processes talk."""

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
    """One job's files: the trainer writes job, rows, config; the ranks progress, checkpoint and, last, report or failure."""

    path: Path

    @classmethod
    def beside(cls, checkpoint: Path) -> WorkFolder:
        """Where the job is done whose checkpoint gets that folder."""
        return cls(checkpoint.absolute().with_name(f".work-{checkpoint.name}"))

    @property
    def job(self) -> Path:
        return self.path / "job.json"

    @property
    def rows(self) -> Path:
        return self.path / "rows.jsonl"

    @property
    def config(self) -> Path:
        """The DeepSpeed preset, before the worker fills in what depends on the hardware and the rows."""
        return self.path / "deepspeed.json"

    @property
    def progress(self) -> Path:
        return self.path / "progress.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def optimizer(self) -> Path:
        """What the optimizer remembers, where the job keeps it."""
        return self.path / "optimizer"

    @property
    def board(self) -> Path:
        """Where the job's TensorBoard files stay."""
        return self.path.parent / "tensorboard" / self.path.name.removeprefix(".work-")

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def failure(self) -> Path:
        """Why the job cannot be done; absent when the ranks ended for another reason."""
        return self.path / "failure.json"

    def write(self, job: TrainingJob, config: dict[str, Any]) -> None:
        self.path.mkdir(parents=True)
        start = job.start.model_copy(update={"path": job.start.path.resolve()})
        head = job.model_copy(update={"start": start}).model_dump(mode="json", exclude={"rows"})
        self.job.write_text(json.dumps(head, indent=1), encoding="utf-8")
        with self.rows.open("w", encoding="utf-8") as file:
            file.writelines(row.model_dump_json() + "\n" for row in job.rows)
        self.config.write_text(json.dumps(config, indent=1), encoding="utf-8")

    def read(self) -> tuple[TrainingJob, dict[str, Any]]:
        head = json.loads(self.job.read_text(encoding="utf-8"))
        with self.rows.open(encoding="utf-8") as file:
            job = TrainingJob(**head, rows=tuple(_ROW.validate_json(line) for line in file))
        return job, json.loads(self.config.read_text(encoding="utf-8"))

    def append_progress(self, record: dict[str, Any]) -> None:
        with self.progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_report(self, report: TrainingReport) -> None:
        self._write_whole(self.report, report.model_dump_json())

    def write_failure(self, error: MeteorError) -> None:
        self._write_whole(self.failure, json.dumps({"error": type(error).__name__, "text": str(error)}))

    def read_failure(self) -> MeteorError | None:
        """As it was raised; None when there is none."""
        if not self.failure.is_file():
            return None
        told = json.loads(self.failure.read_text(encoding="utf-8"))
        kind = NothingToTrainError if told["error"] == NothingToTrainError.__name__ else TrainingError
        return kind(told["text"])

    def _write_whole(self, file: Path, text: str) -> None:
        """Seen by its reader whole or not at all. Every rank may write the same."""
        half = file.with_name(f"{file.name}.{os.getpid()}")
        half.write_text(text, encoding="utf-8")
        half.replace(file)


class ProgressTail:
    """Reads a file of JSON lines that grows: each call gives the records since the last one, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_records(self) -> list[dict[str, Any]]:
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
