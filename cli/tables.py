"""Tables for people: the scoreboard at the end of a run, and a run's status."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from meteor_agents.analysis.held_out import HeldOutFindings, read_held_out
from meteor_agents.analysis.status import read_status
from meteor_agents.cli.terminal import PlainConsole
from meteor_agents.durations import duration
from meteor_agents.evaluation.results import ACCURACY, OVERALL, Metrics
from meteor_agents.pipeline.checkpoints import LINEAGE
from meteor_agents.pipeline.recipes import FINETUNE
from meteor_agents.store.records import open_for_reading

TITLES = {
    "base": "untrained",
    "finetune": "after 1 distil",
    "refine": "after 2 refine",
    "self-train": "after 3 self-train",
}

NEXT_STEPS = """\
What to do next
  1. Plug in a real teacher:
       export OPENAI_API_KEY=...
       meteor run quickstart --run-dir runs/taught --set teacher.backend=openai \\
         --set teacher.model=gpt-4o --set teacher.base_url=https://api.openai.com/v1 \\
         --set teacher.api_key_env=OPENAI_API_KEY
  2. Edit a prompt:
       meteor prompts export my-prompts        # then edit my-prompts/student_attempt.jinja
       meteor run quickstart --run-dir runs/mine --set prompts.dir=$PWD/my-prompts
  3. Use your own questions:
       meteor init my-project                  # then put your rows into my-project/questions.jsonl
       meteor run my-project
(The command is .venv/bin/meteor, unless the environment .venv is active.)"""


def print_scoreboard(run: Path, *, next_steps: bool, console: Console | None = None) -> None:
    """Print how much each stage brought: one row per checkpoint, one column per held-out set with its 95 % interval."""
    console = console or PlainConsole()
    with closing(open_for_reading(run / "run.db")) as records:
        status = read_status(records)
        spoken = records.tokens_by_stage()
        found = read_held_out(records)
    if not found:
        return
    table = Table(
        title=f"{run.name}: held-out results (95 % intervals)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("student", no_wrap=True)
    for held in found:
        table.add_column(held.name, justify="right", no_wrap=True)
    table.add_column("tokens\ngenerated", justify="right")
    table.add_column("tokens\ntrained", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    measured = {label for held in found for label in held.metrics}
    rivals = dict.fromkeys(label for held in found for label in held.metrics if label not in LINEAGE)
    for label in [*(label for label in LINEAGE if label in measured), *rivals]:
        cells = [_headline(held.metrics.get(label)) for held in found]
        stages = [stage for stage in status["stages"] if _label_of(stage) == label]
        seconds = sum(status["stages"].get(stage, {}).get("seconds", 0.0) for stage in stages)
        trained = sum(r["tokens"] for r in status["rounds"] if r["stage"] in stages)
        table.add_row(
            TITLES.get(label, label),
            *cells,
            f"{sum(spoken.get(stage, 0) for stage in stages):,}" if stages else "-",
            f"{trained:,}" if stages else "-",
            duration(seconds) if stages else "-",
        )
    console.print()
    console.print(table)
    if (told := _told_apart(found)) is not None:
        console.print(told)
    for line in (*_pairwise(found), *_doubts(found), *_overlap(found)):
        console.print(line, markup=False, highlight=False)
    if (guided := guided_updates(status)) is not None:
        console.print(guided, markup=False)
    if next_steps:
        console.print()
        console.print(NEXT_STEPS, markup=False, highlight=False, soft_wrap=True)


def _label_of(stage: str) -> str:
    """The checkpoint that a stage's work led to; later turns of stage 3 are named self-train-2 and so on."""
    if stage in ("distill", "finetune"):
        return "finetune"
    return "self-train" if stage.startswith("self-train") else stage


def guided_updates(status: dict[str, Any]) -> str | None:
    """How many of stage 2's training traces were accepted at a later try than the first, or taught by the teacher."""
    refine = status["stages"].get("refine")
    if not refine:
        return None
    tries = refine["accepted_at_try"]
    first = tries.get("1", 0)
    rounds = [r for r in status["rounds"] if r["stage"] == "refine"]
    promoted = sum(r["promoted"] for r in rounds)
    taught = f", {refine['taught']} answered by the teacher" if refine["taught"] else ""
    return (
        f"Stage 2: {refine['accepted']} of {refine['questions']} accepted, {first} at the first try, "
        f"{refine['accepted'] - first} at a later one{taught}; {promoted} of {len(rounds)} updates promoted."
    )


def status_table(status: dict[str, Any]) -> Table:
    """One row per stage: its state, how its questions ended, and the time it took. Taught ones have a column where there are
    any."""
    taught = ["taught"] if any(row["taught"] for row in status["stages"].values()) else []
    shown = ["questions", "accepted", *taught, "exhausted", "failed"]
    table = Table(title="stages", title_justify="left")
    for column in ("stage", "state", *shown, "time"):
        table.add_column(column, justify="left" if column in ("stage", "state") else "right")
    for stage, row in status["stages"].items():
        held = stage != FINETUNE  # which trains, and asks no one
        counts = (str(row[name]) if held or name == "questions" else "-" for name in shown)
        table.add_row(stage, row["state"], *counts, duration(row["seconds"]))
    return table


def calls_table(status: dict[str, Any]) -> Table:
    """One row per role: its calls and tokens. Refused and filtered replies have a column where there are any."""
    table = Table(title="calls", title_justify="left")
    calls = status["calls"].values()
    shown = ["made", "reused", "retried", "failed"]
    shown += [name for name in ("refused", "filtered") if any(row.get(name) for row in calls)]
    for column in ("role", *shown, "tokens in", "tokens out"):
        table.add_column(column, justify="left" if column == "role" else "right")
    for role, row in status["calls"].items():
        tokens = status["tokens"].get(role, {"input": 0, "output": 0})
        counts = (f"{row.get(name, 0):,}" for name in shown)
        table.add_row(role, *counts, f"{tokens['input']:,}", f"{tokens['output']:,}")
    return table


def _headline(metrics: Metrics | None) -> str:
    if metrics is None:
        return "-"
    lost = metrics.judge_errors + metrics.failed
    if metrics.accuracy is not None:
        text = f"{metrics.accuracy.value:.1%} ({metrics.accuracy.low:.0%}-{metrics.accuracy.high:.0%})"
    else:
        text = metrics.headline()
    return text + (f" [{lost} unjudged]" if lost else "")


def _told_apart(found: Sequence[HeldOutFindings]) -> Table | None:
    """Paired differences between students, and the smallest that this many questions can detect."""
    table = Table(
        title="Paired differences (minimum detectable: p < 0.05 with 80 % power)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("held out", overflow="ellipsis", no_wrap=True)
    table.add_column("from, to")
    table.add_column("difference (95 %)", justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("minimum\ndetectable", justify="right", no_wrap=True)
    for held in found:
        measure = ACCURACY if any(row.measure == ACCURACY for row in held.differences) else OVERALL
        scale, unit = (100, "%") if measure == ACCURACY else (1, "")
        for row in (row for row in held.differences if row.measure == measure):
            value, low, high = (scale * x for x in (row.difference.value, row.difference.low, row.difference.high))
            table.add_row(
                held.name,
                f"{_short(row.before)}, {_short(row.after)}",
                f"{value:+.3g}{unit} ({low:+.3g} to {high:+.3g})",
                "<0.001" if row.p < 0.001 else f"{row.p:.3f}",
                f"{scale * row.smallest:.2g}{unit}",
            )
    return table if table.row_count else None


def _short(label: str) -> str:
    return TITLES.get(label, label).removeprefix("after ")


def _pairwise(found: Sequence[HeldOutFindings]) -> Iterator[str]:
    for held in found:
        for other, shares in held.pairwise.items():
            wins = ", ".join(f"{name} {share.value:.0%}" for name, share in shares.with_.items())
            even = f"; {shares.at_equal_length.value:.0%} overall at equal length" if shares.at_equal_length else ""
            yield (
                f"{held.name}: pairwise against {other}: with METEOR {wins}{even} (both orders; {shares.judge_errors} of "
                f"{shares.questions} unjudged, {shares.flipped} verdicts flipped with the order)"
            )


def _overlap(found: Sequence[HeldOutFindings]) -> Iterator[str]:
    """How many held-out questions nearly repeat a training question, and the last checkpoint's figure on the others."""
    for held in found:
        last = held.metrics[held.own[-1]] if held.own else None
        if last and last.near_training:
            share = last.accuracy is not None
            others = f"; on the others {last.apart.formatted(share=share)}" if last.apart else ""
            yield f"{held.name}: {last.near_training} of {last.questions} questions nearly repeat one of training{others}"


def _doubts(found: Sequence[HeldOutFindings]) -> Iterator[str]:
    """What a reader should know before relying on the figures."""
    known = [(held.name, held.reliability) for held in found if held.reliability]
    yield from dict.fromkeys(f"warning: {warning}" for _, reliability in known for warning in reliability.kinships)
    for heldout, reliability in known:
        if reliability.repeats:
            yield (
                f"{heldout}: asked twice, the judges gave the same score {reliability.repeats.same.value:.0%} of the time "
                f"({reliability.repeats.questions} replies)"
            )
        for agreement in reliability.human:
            kappa = f", kappa {agreement.kappa:.2f}" if agreement.kappa is not None else ""
            same = "none" if agreement.same is None else f"{agreement.same:.0%}"
            yield f"{heldout}: {agreement.judge} agrees with people on {same} of {agreement.labels} labels{kappa}"
