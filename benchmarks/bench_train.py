"""Training beside TRL's SFTTrainer: tokens/s and peak memory on the quickstart's model, rows and settings.

    python benchmarks/bench_train.py [ours] [packed] [checkpointed] [trl] [trl-packing] [trl-tuned] [updates]

Each contender trains on the same rows for one epoch in batches of 8, in a process of its own, one after the other. `packed`
and `checkpointed` are ours with `training.packing` and `training.gradient_checkpointing`. `trl` is SFTTrainer with its own
defaults (gradient checkpointing, bfloat16 autocast over float32 weights), `trl-packing` also has `packing=True` with rows of
the quickstart's max_length, and `trl-tuned` is TRL without gradient checkpointing in the number format that we pick.

Tokens are counted without padding. The first step, which allocates memory and compiles kernels, is left out. Memory is the
highest sum of PSS over all processes of a contender, without the process that only starts ours. `updates` has one trainer
make five updates of 8 rows, with and without the optimizer's state, and prints the seconds of each besides its steps.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

CONTENDERS = ("ours", "packed", "checkpointed", "trl", "trl-packing", "trl-tuned", "updates")
OURS = ("ours", "packed", "checkpointed")
BATCH, MAX_LENGTH, RATE = 8, 256, 1e-4


def main() -> None:
    """Run the contenders of the command line and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "contenders", nargs="*", metavar="CONTENDER", help=f"of {', '.join(CONTENDERS)}; all by default"
    )
    parser.add_argument("--model", type=Path, help="a model's folder; the fetched smollm2-135m by default")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.contenders) - set(CONTENDERS):
        parser.error(f"no such contender: {', '.join(sorted(unknown))}")
    model = given.model or _fetched()
    if given.one:
        run = {"updates": _updates, **dict.fromkeys(OURS, _ours)}.get(given.one, _trl)
        print(json.dumps(run(given.one, model, given.rows)))
        return
    found: dict[str, dict[str, Any]] = {}
    for name in given.contenders or CONTENDERS:
        found[name] = _measured(name, model, given.rows)
        print(_line(name, found[name]), flush=True)
    for ours in OURS:
        for theirs in ("trl", "trl-packing", "trl-tuned"):
            if ours in found and theirs in found:
                ratio = found[ours]["tokens_per_s"] / found[theirs]["tokens_per_s"]
                memory = found[ours]["peak_mb"] / found[theirs]["peak_mb"]
                print(f"{ours} / {theirs}: {ratio:.2f} times the tokens/s, {memory:.2f} times the memory")


def _measured(name: str, model: Path, rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, "--model", str(model), "--rows", str(rows)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        ours = name in (*OURS, "updates")
        peak = _Peak(process.pid, without_root=ours)
        output, _ = process.communicate()
        peak.stop()
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{name} failed:\n{errors.read()[-3000:]}")
    return {**json.loads(output.splitlines()[-1]), "peak_mb": peak.bytes / 1e6}


def _line(name: str, found: dict[str, Any]) -> str:
    if name == "updates":
        return "\n".join(
            f"{what:22} "
            + ", ".join(f"{seconds:.2f}" for seconds in found[what])
            + " s beyond the steps of each update"
            for what in ("keep", "reset")
        )
    return (
        f"{name:12} {found['tokens_per_s']:7.1f} tokens/s, {found['tokens']} tokens, "
        f"peak {found['peak_mb']:,.0f} MB ({found['dtype']})"
    )


class _Peak:
    """Measures the highest sum of PSS over a process and its descendants, four times a second (Linux)."""

    def __init__(self, root: int, *, without_root: bool) -> None:
        self.bytes = 0
        self._root, self._without_root = root, without_root
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.25):
            tree = _tree(self._root)
            self.bytes = max(self.bytes, sum(map(_pss, tree[1:] if self._without_root else tree)))


def _tree(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(entry.parent.name))
    found = [root]
    for process in found:
        found.extend(parents.get(process, []))
    return found


def _pss(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _fetched() -> Path:
    from meteor_agents.backends.local.catalog import resolve

    folder = resolve("smollm2-135m")
    if folder is None:
        raise SystemExit("run `meteor models fetch smollm2-135m` first, or name a folder with --model")
    return folder


def _questions(count: int) -> list[dict[str, Any]]:
    """The quickstart's rows: messages to answer, and the answer."""
    from meteor_agents import prompts
    from meteor_agents.configs import quickstart
    from meteor_agents.data.questions import read_questions
    from meteor_agents.method.templates import Templates

    home = Path(quickstart.__file__).parent
    templates = Templates(Path(prompts.__file__).parent, home / "prompts")
    return [
        {
            "id": question.id,
            "prompt": templates.render("student_attempt", domain="SQL", question=question),
            "target": f"{question.reasoning}\nAnswer: {question.reference}",
        }
        for question in read_questions(home / "train.jsonl")[:count]
    ]


def _examples(count: int) -> tuple[Any, ...]:
    from meteor_agents.training import Example

    return tuple(Example(**row) for row in _questions(count))


def _ours(name: str, model: Path, count: int) -> dict[str, Any]:
    from meteor_agents.backends.training.trainer import DeepSpeedTrainer
    from meteor_agents.training import Checkpoint, TrainingJob, TrainingSettings

    job = TrainingJob(
        name="bench",
        rows=_examples(count),
        start=Checkpoint(version="base", path=model),
        settings=TrainingSettings(
            learning_rate=RATE,
            epochs=1,
            batch_size=BATCH,
            micro_batch_size=BATCH,
            max_length=MAX_LENGTH,
            packing=name == "packed",
            gradient_checkpointing=name == "checkpointed",
        ),
    )

    async def train(folder: Path) -> dict[str, Any]:
        trainer = DeepSpeedTrainer()
        try:
            return (await trainer.train(job, folder, lambda event: None)).model_dump()
        finally:
            await trainer.aclose()

    with tempfile.TemporaryDirectory() as scratch:
        report = asyncio.run(train(Path(scratch) / "new"))
    rate = report["metrics"]["tokens_per_s"]
    return {"tokens": report["tokens"], "tokens_per_s": rate, "dtype": report["metrics"]["dtype"]}


def _trl(name: str, model: Path, count: int) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from meteor_agents.backends.local.hardware import pick_device, pick_dtype

    device = pick_device()
    rows = [
        {
            "prompt": [message.model_dump() for message in row["prompt"]],
            "completion": [{"role": "assistant", "content": row["target"]}],
        }
        for row in _questions(count)
    ]
    options: dict[str, Any] = {}
    if name == "trl-packing":
        options = {"packing": True, "max_length": MAX_LENGTH}
    if name == "trl-tuned":
        dtype = pick_dtype("auto", device)
        options = {"activation_checkpointing": False, "model_init_kwargs": {"dtype": dtype}, "max_length": MAX_LENGTH}
    times: list[float] = []
    seen: list[int] = []

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers carries no types
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(-time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times[-1] += time.perf_counter()

    class Counting(SFTTrainer):  # type: ignore[misc]  # trl carries no types
        def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            labels = inputs["input_ids"]
            seen.append(int(mask.sum()) if mask is not None else labels.numel())
            return super().training_step(model, inputs, *more, **named)

    with tempfile.TemporaryDirectory() as scratch:
        trainer = Counting(
            model=str(model),
            train_dataset=Dataset.from_list(rows),
            args=SFTConfig(
                output_dir=scratch,
                per_device_train_batch_size=BATCH,
                learning_rate=RATE,
                num_train_epochs=1,
                use_cpu=device.type == "cpu",
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                **options,
            ),
            callbacks=[Watch()],
        )
        trainer.train()
        weights = next(trainer.model.parameters()).dtype
    tokens, seconds = sum(seen[1:]), sum(times[1:])
    autocast = ", autocast to bfloat16" if trainer.args.bf16 and weights == torch.float32 else ""
    return {
        "tokens": sum(seen),
        "tokens_per_s": tokens / seconds,
        "dtype": f"{str(weights).removeprefix('torch.')}{autocast}",
    }


def _updates(name: str, model: Path, count: int) -> dict[str, Any]:
    from meteor_agents.backends.training.trainer import DeepSpeedTrainer
    from meteor_agents.training import Checkpoint, TrainingJob, TrainingSettings

    rows = _examples(count)
    settings = TrainingSettings(epochs=1, batch_size=BATCH, micro_batch_size=BATCH, learning_rate=1e-5)

    async def overheads(folder: Path, keep: bool) -> list[float]:
        trainer = DeepSpeedTrainer()
        start = Checkpoint(version="base", path=model)
        found = []
        try:
            for number in range(5):
                job = TrainingJob(
                    name=f"refine-{number + 1:03d}",
                    rows=rows[number * 8 : number * 8 + 8],
                    start=start,
                    settings=settings,
                    carries_optimizer=keep and number > 0,
                    keeps_optimizer=keep,
                )
                began = time.perf_counter()
                report = await trainer.train(job, folder / job.version(), lambda event: None)
                found.append(time.perf_counter() - began - report.metrics["phase_s"]["steps"])
                start = Checkpoint(version=job.version(), path=folder / job.version())
        finally:
            await trainer.aclose()
        return found

    found = {}
    for what in ("keep", "reset"):
        with tempfile.TemporaryDirectory() as scratch:
            found[what] = asyncio.run(overheads(Path(scratch), keep=what == "keep"))
    return found


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
