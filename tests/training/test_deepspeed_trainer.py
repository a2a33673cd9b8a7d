"""Real jobs under DeepSpeed's launcher, on CPU, on a random model of two layers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import pytest

from meteor_agents.errors import NothingToTrainError, TrainingError
from meteor_agents.events import Event, TrainingNote, TrainingProgress
from meteor_agents.models import ChatMessage
from meteor_agents.training import (
    Checkpoint,
    Example,
    LoraSettings,
    PairwiseLoss,
    PreferencePair,
    TrainingJob,
    TrainingReport,
    TrainingSettings,
)
from meteor_agents.weight_files import WRITTEN, changed_since_written, missing_parts
from tests.support.tiny_model import make_tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(find_spec(name) for name in ("torch", "transformers", "deepspeed", "peft")),
        reason="needs the packages of the extra [train]",
    ),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "base")


def question(number: int) -> tuple[ChatMessage, ...]:
    return (ChatMessage(role="user", content=f"What is {number} plus {number}?" + " Think well." * (number % 4)),)


def examples(count: int) -> tuple[Example, ...]:
    return tuple(
        Example(id=str(i), prompt=question(i), target=f"It is {2 * i}." + " Sure." * (i % 3)) for i in range(count)
    )


def sft(base: Path, rows: tuple[Example, ...], **settings: Any) -> TrainingJob:
    return TrainingJob(
        name="distil-001",
        rows=rows,
        start=Checkpoint(version="base", path=base),
        settings=TrainingSettings(learning_rate=3e-3, batch_size=6, micro_batch_size=2, **settings),
    )


class Train(Protocol):
    """Trains, and gives the report and all events; `hear` gets these as they come."""

    def __call__(
        self, job: TrainingJob, folder: Path, hear: Callable[[Event], None] = ...
    ) -> tuple[TrainingReport, list[Event]]: ...


@pytest.fixture(scope="module")
def train() -> Iterator[Train]:
    """Jobs one after another by one trainer, so that most tests find its processes running."""
    from meteor_agents.backends.training.trainer import DeepSpeedTrainer

    with asyncio.Runner() as runner:
        trainer = DeepSpeedTrainer()

        def run(
            job: TrainingJob, folder: Path, hear: Callable[[Event], None] = lambda event: None
        ) -> tuple[TrainingReport, list[Event]]:
            events: list[Event] = []

            def on_event(event: Event) -> None:
                events.append(event)
                hear(event)

            return runner.run(trainer.train(job, folder, on_event)), events

        yield run
        runner.run(trainer.aclose())


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, TrainingProgress)]


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def names(folder: Path) -> set[str]:
    """What jobs left there. The processes' own files lie where their first job was."""
    return {file.name for file in folder.iterdir()} - {".trainer", "trainer.log"}


WORKER = "meteor_agents.backends.training.ranks.worker"


def processes_of(folder: Path) -> list[int]:
    """Whose command lines mention the folder: launchers and ranks of its jobs, but not this test."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_text()
        except OSError:
            continue
        if str(folder) in command and WORKER in command:
            found.append(int(entry.parent.name))
    return found


def listening_addresses(processes: list[int]) -> set[str]:
    """The addresses, as the kernel writes them, on which these processes accept TCP connections."""
    sockets = set()
    for link in (link for process in processes for link in Path(f"/proc/{process}/fd").iterdir()):
        with suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(link.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *others = line.split()
            if state == "0A" and f"socket:[{others[5]}]" in sockets:
                found.add(local.partition(":")[0])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1 in both tables, and ::1."""


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="looks for sockets in /proc")
def test_listening_sockets_are_found() -> None:
    import socket

    with socket.create_server(("0.0.0.0", 0)), socket.create_server(("127.0.0.1", 0)):  # for this moment
        assert listening_addresses([os.getpid()]) >= {"00000000", "0100007F"}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_cancelled_job_leaves_no_process_and_no_folder_and_never_listened_to_other_machines(
    base: Path, tmp_path: Path
) -> None:
    from meteor_agents.backends.training.trainer import DeepSpeedTrainer

    job = sft(base, examples(8), epochs=100_000, processes=2)

    async def cancel_after_two_steps() -> None:
        under_way = asyncio.Event()
        seen: list[int] = []
        listening: set[str] = set()

        def on_event(event: Event) -> None:
            if isinstance(event, TrainingProgress) and event.step == 2:
                seen.extend([event.step, len(processes_of(tmp_path))])
                listening.update(listening_addresses(processes_of(tmp_path)))
                under_way.set()

        training = asyncio.create_task(DeepSpeedTrainer().train(job, tmp_path / "new", on_event))
        await under_way.wait()
        training.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await training
        assert time.monotonic() - began < 10  # cluster managers give 30 s in all
        assert seen == [2, 3]  # the launcher and both ranks were there
        assert listening
        assert listening <= LOOPBACK

    asyncio.run(cancel_after_two_steps())
    assert processes_of(tmp_path) == []
    assert names(tmp_path) == {"new.log"}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_processes_end_when_their_trainer_is_killed(base: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(sft(base, examples(8), epochs=100_000).model_dump_json())
    program = (
        "import asyncio, pathlib, sys\n"
        "from meteor_agents.backends.training.trainer import DeepSpeedTrainer\n"
        "from meteor_agents.training import TrainingJob\n"
        "job = TrainingJob.model_validate_json(pathlib.Path(sys.argv[1]).read_text())\n"
        "asyncio.run(DeepSpeedTrainer().train(job, pathlib.Path(sys.argv[2]), lambda event: print(event, flush=True)))\n"
    )
    command = [sys.executable, "-c", program, str(job), str(tmp_path / "new")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as trainer:
        assert trainer.stdout is not None
        printed = []
        for line in trainer.stdout:
            printed.append(line.partition("(")[0])
            if printed[-1] == "TrainingProgress":
                break
        assert set(printed) == {"TrainingNote", "TrainingProgress"}  # no library says anything to the user
        assert len(processes_of(tmp_path)) == 2
        os.kill(trainer.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(tmp_path) == []
    assert not (tmp_path / "new").exists()


def test_failed_job_tells_why_and_leaves_no_folder(base: Path, train: Train, tmp_path: Path) -> None:
    with pytest.raises(NothingToTrainError) as failure:
        train(sft(base, examples(3), max_length=8), tmp_path / "new")
    sentence = str(failure.value)
    assert "no rows to train on: all 3 are longer than max_length 8 tokens" in sentence
    assert str(tmp_path / "new.log") in sentence
    assert len(sentence.splitlines()) <= 16
    assert names(tmp_path) == {"new.log"}


def test_existing_folder_is_never_overwritten(base: Path, train: Train, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="exists already"):
        train(sft(base, examples(3)), tmp_path)


def test_incomplete_start_is_refused_before_anything_starts(train: Train, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=r"lacks config\.json"):
        train(sft(tmp_path / "empty", examples(3)), tmp_path / "new")
    assert not (tmp_path / "new.log").exists()


def two_machines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hostfile of two names of this machine; the second is reached by an ssh that only runs what it is told."""
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\necho "$3" >> {folder}/reached\nexec sh -c "$4"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}{os.pathsep}{os.environ['PATH']}")
    hostfile = folder / "hostfile"
    hostfile.write_text("127.0.0.1 slots=1\nlocalhost slots=1  # the same\n")
    return hostfile


def test_full_fine_tuning_gives_the_same_on_one_rank_and_on_two_of_two_launchers(
    base: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    hostfile = two_machines(tmp_path, monkeypatch)

    too_long = Example(id="long", prompt=question(1), target="word " * 500)
    rows = (*examples(8), too_long)  # batches of 6 and 2, so that a rank is without rows at times
    settings = {"epochs": 4, "dtype": "float32", "max_length": 128}
    one, events = train(sft(base, rows, **settings), tmp_path / "one")
    two, others = train(sft(base, rows, processes=2, hostfile=hostfile, **settings), tmp_path / "two")
    assert (tmp_path / "reached").read_text() == "localhost\n"

    assert losses(events) == pytest.approx(losses(others), rel=1e-3)
    assert losses(events)[-1] < losses(events)[0] - 0.5
    assert (one.steps, one.rows_used, one.rows_too_long) == (8, 8, 1)
    assert (two.steps, two.tokens, two.metrics["ranks"]) == (8, one.tokens, 2)
    assert any(isinstance(event, TrainingNote) and "1 longer than 128 tokens" in event.text for event in events)
    assert [event.step for event in events if isinstance(event, TrainingProgress)] == list(range(1, 9))

    before, after, other = weights(base), weights(tmp_path / "one"), weights(tmp_path / "two")
    assert before.keys() == after.keys()
    assert all(after[name].dtype == before[name].dtype == torch.float32 for name in before)
    assert all(not torch.equal(after[name], before[name]) for name in before)
    assert all(torch.allclose(after[name], other[name], atol=3e-3) for name in before)
    assert names(tmp_path) == {"one", "one.log", "two", "two.log", "bin", "hostfile", "reached"}


def test_every_preset_trains_to_the_same_weights_where_nothing_can_be_offloaded(
    base: Path, train: Train, tmp_path: Path
) -> None:
    rows = examples(8)
    _, plain = train(sft(base, rows, epochs=2, dtype="float32"), tmp_path / "zero2")
    others: dict[str, dict[str, Any]] = {
        "zero1": {"gradient_checkpointing": True},
        "zero2-offload": {"packing": True},
        "zero3-offload": {},
        "zero3": {"gradient_checkpointing": True},
    }
    for config, more in others.items():
        _, events = train(sft(base, rows, epochs=2, dtype="float32", config=config, **more), tmp_path / config)
        assert losses(events) == pytest.approx(losses(plain), rel=1e-4), config
        assert other_weights(tmp_path / "zero2", tmp_path / config, atol=1e-4) == [], config


def test_half_precision_with_loss_scaling_learns_too(base: Path, train: Train, tmp_path: Path) -> None:
    report, events = train(sft(base, examples(6), epochs=15, dtype="float16"), tmp_path / "new")
    assert report.metrics["dtype"] == "float16"
    assert losses(events)[-1] < 0.8 * losses(events)[0]


def test_merged_adapters_lower_the_loss_of_the_written_checkpoint(base: Path, train: Train, tmp_path: Path) -> None:
    import torch

    rows = tuple(Example(id=str(i), prompt=question(1), target="It is 2, surely.") for i in range(4))
    lora = LoraSettings(r=8)
    report, events = train(sft(base, rows, epochs=30, dtype="bfloat16", lora=lora), tmp_path / "new")

    assert losses(events)[-1] < 0.7 * losses(events)[0]
    assert report.metrics["dtype"] == "bfloat16"
    assert report.loss is not None
    assert loss_of(tmp_path / "new", rows[0]) == pytest.approx(report.loss, rel=0.1)
    assert loss_of(base, rows[0]) == pytest.approx(losses(events)[0], rel=0.05)

    before, after = weights(base), weights(tmp_path / "new")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
    assert all(after[name].dtype == torch.float32 for name in before)
    assert max(int(torch.linalg.matrix_rank(after[n] - before[n], rtol=1e-3)) for n in changed) <= 8
    assert missing_parts(tmp_path / "new") == []
    assert set(json.loads((tmp_path / "new" / WRITTEN).read_text())) == names(tmp_path / "new") - {WRITTEN}
    assert changed_since_written(tmp_path / "new") is None
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "new" / name).read_bytes() == (base / name).read_bytes()
    assert json.loads((tmp_path / "new" / "config.json").read_text())["dtype"] == "float32"


def loss_of(folder: Path, example: Example) -> float:
    import torch
    import transformers

    from meteor_agents.backends.training.ranks.batching.encoding import encode_row
    from meteor_agents.backends.training.ranks.batching.losses import sft_loss

    encoded = encode_row(transformers.AutoTokenizer.from_pretrained(folder), example).sequences[0]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([encoded.ids])).logits
    return float(sft_loss(logits[0, :-1], torch.tensor(encoded.labels[1:])))


def test_pairwise_job_under_zero3_prefers_the_chosen_replies(base: Path, train: Train, tmp_path: Path) -> None:
    pairs = tuple(
        PreferencePair(id=str(i), prompt=question(i), chosen=f"It is {2 * i}.", rejected="Nobody can know that, sorry.")
        for i in range(6)
    )
    job = TrainingJob(
        name="self-train-001",
        rows=pairs,
        start=Checkpoint(version="base", path=base),
        settings=TrainingSettings(
            config="zero3", learning_rate=3e-3, epochs=10, batch_size=6, micro_batch_size=4, lora=LoraSettings(r=8)
        ),
        loss=PairwiseLoss(margin=0.5),
    )
    report, events = train(job, tmp_path / "new")
    assert report.metrics["margin_last"] > report.metrics["margin_first"] + 0.2
    assert losses(events)[-1] < losses(events)[0]
    assert missing_parts(tmp_path / "new") == []
    assert margin_of(tmp_path / "new", pairs[0]) > margin_of(base, pairs[0]) + 0.2


def margin_of(folder: Path, pair: PreferencePair) -> float:
    chosen = Example(id=pair.id, prompt=pair.prompt, target=pair.chosen)
    rejected = Example(id=pair.id, prompt=pair.prompt, target=pair.rejected)
    return loss_of(folder, rejected) - loss_of(folder, chosen)


# Jobs one after another in the same processes


def chain(base: Path, length: int, **more: Any) -> list[TrainingJob]:
    """Updates, each of which starts from the one before and goes on with its optimizer."""
    settings = TrainingSettings(learning_rate=3e-3, batch_size=4, micro_batch_size=4, epochs=1, dtype="float32")
    jobs: list[TrainingJob] = []
    for number in range(length):
        start = Checkpoint(version=jobs[-1].version(), path=Path(jobs[-1].version())) if jobs else None
        jobs.append(
            TrainingJob(
                name=f"refine-{number + 1:03d}",
                rows=tuple(row.model_copy(update={"id": f"{number}-{row.id}"}) for row in examples(6 + number)),
                start=start or Checkpoint(version="base", path=base),
                settings=settings.model_copy(update=more),
                carries_optimizer=start is not None,
                keeps_optimizer=True,
            )
        )
    return jobs


def placed(job: TrainingJob, folder: Path) -> TrainingJob:
    """The job with its start in that folder, where the chain's checkpoints are."""
    if job.start.path.is_absolute():
        return job
    return job.model_copy(update={"start": job.start.model_copy(update={"path": folder / job.start.path})})


def train_chain(jobs: list[TrainingJob], folder: Path, train: Train) -> list[list[Event]]:
    """The events of each."""
    return [train(placed(job, folder), folder / job.version())[1] for job in jobs]


def starts(events: list[Event]) -> int:
    return sum(isinstance(event, TrainingNote) and event.text.startswith("started") for event in events)


def other_weights(one: Path, other: Path, *, atol: float) -> list[str]:
    import torch

    ours, theirs = weights(one), weights(other)
    return [name for name in ours if not torch.allclose(ours[name], theirs[name], rtol=0, atol=atol)]


def test_an_update_goes_on_with_the_optimizer_of_the_one_before_whatever_the_zero_stage(
    base: Path, train: Train, tmp_path: Path
) -> None:
    jobs = chain(base, 3)
    assert sum(map(starts, train_chain(jobs, tmp_path, train))) <= 1
    last = placed(jobs[-1], tmp_path)
    here = tmp_path / last.version()
    settings = last.settings.model_copy(update={"config": "zero3"})
    train(last.model_copy(update={"settings": settings}), tmp_path / "zero3")
    assert other_weights(here, tmp_path / "zero3", atol=1e-6) == []
    train(last.model_copy(update={"carries_optimizer": False}), tmp_path / "fresh")
    assert other_weights(here, tmp_path / "fresh", atol=1e-3) != []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_an_update_whose_processes_are_killed_is_done_again_and_gives_the_same(
    base: Path, train: Train, tmp_path: Path
) -> None:
    """In bfloat16 from a checkpoint in bfloat16, where the masters are kept too."""
    from safetensors.torch import load_file, save_file

    half = shutil.copytree(base, tmp_path / "half")
    save_file(
        {name: tensor.bfloat16() for name, tensor in weights(base).items()},
        half / "model.safetensors",
        {"format": "pt"},
    )
    jobs = chain(half, 2, dtype="bfloat16", learning_rate=1e-5)
    *_, uninterrupted = train_chain(jobs, tmp_path, train)
    kept = load_file(tmp_path / f"{jobs[0].version()}.optimizer" / "0001.safetensors")
    assert {name.partition("/")[0] for name in kept} == {"master", "exp_avg", "exp_avg_sq"}

    last = placed(jobs[-1], tmp_path)
    killed: list[int] = []

    def kill_once(event: Event) -> None:
        if isinstance(event, TrainingProgress) and not killed:
            killed.extend(processes_of(tmp_path.parent))
            for process in killed:
                os.kill(process, signal.SIGKILL)

    _, events = train(last, tmp_path / "again", kill_once)
    assert len(killed) == 2
    assert starts(events) == 1
    assert any(isinstance(event, TrainingNote) and "the whole update is done again" in event.text for event in events)
    assert losses(events)[-2:] == losses(uninterrupted)
    assert other_weights(tmp_path / last.version(), tmp_path / "again", atol=0) == []
