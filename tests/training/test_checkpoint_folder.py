"""Checkpoint folders: what was written is what is trained from, and a cancelled job leaves a whole one or none."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from meteor_agents.backends.training.checkpoint_folder import prepare
from meteor_agents.backends.training.work_folder import WorkFolder
from meteor_agents.errors import TrainingError
from meteor_agents.models import ChatMessage
from meteor_agents.training import Checkpoint, Example, TrainingJob, TrainingSettings, optimizer_beside
from meteor_agents.weight_files import WRITTEN, changed_since_written, damaged_weights, missing_parts, record_written

HEADER = b'{"a":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(range(256))


def write_folder(folder: Path) -> Path:
    """A checkpoint as far as its files tell without being loaded."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def job(start: Path, **fields: bool) -> TrainingJob:
    rows = (Example(id="1", prompt=(ChatMessage(role="user", content="Why?"),), target="Because."),)
    checkpoint = Checkpoint(version="base", path=start)
    return TrainingJob(name="refine-001", rows=rows, start=checkpoint, settings=TrainingSettings(), **fields)


def flip(file: Path, at: int) -> None:
    """Change one bit, and nothing that a look at the folder would show."""
    times = file.stat()
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_folder_is_unchanged_until_one_of_its_files_is(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "one")
    assert changed_since_written(folder) is None  # without a record, for example a downloaded model
    record_written(folder)
    assert changed_since_written(folder) is None
    (folder / "notes.txt").write_text("of its owner")
    assert changed_since_written(folder) is None
    for at in (8 + len(HEADER), -1):
        flip(folder / "model.safetensors", at)
        assert changed_since_written(folder) == "model.safetensors has another content than the one that was written"
        flip(folder / "model.safetensors", at)
        assert changed_since_written(folder) is None


def test_every_kind_of_change_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "one")
    record_written(folder)
    (folder / "config.json").write_text('{"a": 1}')
    assert changed_since_written(folder) == "config.json has 8 bytes, but 2 were written"
    (folder / "config.json").unlink()
    assert changed_since_written(folder) == "config.json is missing"


@pytest.mark.parametrize("record", ["", "[]", '{"config.json": 3}', '{"config.json": {"bytes": "many", "crc32": "0"}}'])
def test_a_damaged_record_is_trouble_too(tmp_path: Path, record: str) -> None:
    folder = write_folder(tmp_path / "one")
    (folder / WRITTEN).write_text(record)
    assert changed_since_written(folder) == f"{WRITTEN}, which says what was written there, cannot be read"
    assert damaged_weights(folder) == changed_since_written(folder)


def test_a_job_does_not_start_from_changed_weights(tmp_path: Path) -> None:
    start = write_folder(tmp_path / "start")
    record_written(start)
    flip(start / "model.safetensors", -1)
    with pytest.raises(TrainingError, match=r"refine-001: the start checkpoint .*start cannot be trained from: model\."):
        prepare(WorkFolder.beside(tmp_path / "new"), tmp_path / "new", job(start))
    assert not WorkFolder.beside(tmp_path / "new").path.exists()


def test_a_job_does_not_go_on_from_a_changed_optimizer_state(tmp_path: Path) -> None:
    start = write_folder(tmp_path / "start")
    state = optimizer_beside(start)
    state.mkdir()
    (state / "0001.safetensors").write_bytes(WEIGHTS)
    record_written(state)
    prepare(WorkFolder.beside(tmp_path / "new"), tmp_path / "new", job(start, carries_optimizer=True))
    flip(state / "0001.safetensors", -1)
    with pytest.raises(TrainingError, match=r"0001\.safetensors has another content .*optimizer_state: reset"):
        prepare(WorkFolder.beside(tmp_path / "new"), tmp_path / "new", job(start, carries_optimizer=True))


LAUNCHER = """#!{python}
import json, shutil, sys, time
from pathlib import Path

orders = Path(sys.argv[sys.argv.index("--orders") + 1])
while not orders.exists():
    time.sleep(0.01)
work = Path(json.loads(orders.read_text().splitlines()[0])["order"])
start = Path(json.loads((work / "job.json").read_text())["start"]["path"])
shutil.copytree(start, work / "checkpoint")
(work / "checkpoint" / "vocab.json").write_bytes(bytes(100_000_000))
report = {{"loss": 0.5, "steps": 1, "tokens": 1, "seconds": 1.0, "rows_used": 1, "rows_too_long": 0}}
(work / "half").write_text(json.dumps(report))
(work / "half").rename(work / "report.json")
time.sleep(60)
"""
"""In the place of Python, for a launcher and a rank that copy their start; the checkpoint takes a while to be checked."""


def wait_for(*files: Path) -> None:
    """Until one of them exists."""
    while not any(file.exists() for file in files):
        time.sleep(0.002)


@pytest.mark.skipif(
    not all(find_spec(name) for name in ("deepspeed", "transformers")), reason="needs the packages of the extra [train]"
)
@pytest.mark.parametrize("moment", ["training is done", "the checkpoint is recorded"])
def test_a_job_that_is_cancelled_while_its_checkpoint_is_named_leaves_a_whole_one(tmp_path: Path, moment: str) -> None:
    from meteor_agents.backends.training.trainer import DeepSpeedTrainer

    launcher = tmp_path / "python"
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)
    folder = tmp_path / "checkpoints" / "new"
    folder.parent.mkdir()
    work = WorkFolder.beside(folder)
    start = write_folder(tmp_path / "start")
    recorded = moment == "the checkpoint is recorded"

    async def cancel_then() -> None:
        trainer = DeepSpeedTrainer(python=str(launcher))
        training = asyncio.create_task(trainer.train(job(start), folder, lambda event: None))
        await asyncio.to_thread(wait_for, work.checkpoint / WRITTEN if recorded else work.report, folder)
        training.cancel()
        await asyncio.wait({training})
        await trainer.aclose()

    asyncio.run(cancel_then())
    assert folder.exists() or not recorded
    if folder.exists():
        assert missing_parts(folder) == []
        assert (folder / WRITTEN).exists()
        assert changed_since_written(folder) is None
    assert {path.name for path in folder.parent.iterdir()} - {"new"} == {"new.log", "trainer.log"}
