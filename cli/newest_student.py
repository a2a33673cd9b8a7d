"""Where the newest student of a run is, and how to use it."""

from __future__ import annotations

from pathlib import Path

from meteor_agents.pipeline.checkpoints import BASE, LINEAGE
from meteor_agents.store.records import Records


def newest_student(records: Records, checkpoints: Path) -> Path | None:
    """The folder of the last checkpoint that the run arrived at; None while the student is still the untrained one.

    `checkpoints` is the run's folder of checkpoints.
    """
    lineage = records.lineage()
    trained = [lineage[label] for label in LINEAGE if label in lineage and lineage[label] != lineage.get(BASE)]
    folders = [checkpoints / version for version in trained]
    return next((folder for folder in reversed(folders) if folder.is_dir()), None)


def how_to_use(folder: Path) -> list[str]:
    """Two lines for the end of a run: the folder of the student, and what opens it."""
    return [
        f"student: {folder}",
        "  a Hugging Face model folder: transformers.AutoModelForCausalLM.from_pretrained(FOLDER), or vllm serve FOLDER",
    ]
