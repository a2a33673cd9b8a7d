"""What the method brings on two domains that a program can check, written to docs/results.md: make results.

One whole run of the preset is made for each domain and seed. Its stages are the methods compared: plain distillation after
stage 1, distillation and refinement after stage 2, the full method after stage 3. So all methods have had exactly the same
teacher answers, those of stage 1. Then the profiles of stage 3 are compared on the quickstart, from the first run's stage-2
student (`meteor ablate`). Everything resumes: finished work is only read.

    python benchmarks/results.py                     # hours on a CPU: 3 seeds
    python benchmarks/results.py --seeds 1 --limit 8 --out /tmp/results.md     # only to try the program
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from meteor_agents.analysis.ablation import Arm, Scores, averaged, difference, rows
from meteor_agents.analysis.status import read_status
from meteor_agents.assembly.config_file import read_config
from meteor_agents.cli.commands.ablate import ARMS, FOLDER, FOUND
from meteor_agents.evaluation.results import read_graded_reply
from meteor_agents.evaluation.statistics import Interval, mean, proportion
from meteor_agents.messages import Status
from meteor_agents.store.records import Records, open_for_reading

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
METHODS = {
    "base": "untrained",
    "finetune": "plain distillation",
    "refine": "distillation + refinement",
    "self-train": "the full method",
}
STAGES = {"finetune": ("distill", "finetune"), "refine": ("refine",), "self-train": ("self-train",)}
"""Method -> the stages whose seconds it adds to those of the methods before it."""


@dataclass(frozen=True, slots=True)
class Run:
    """What the page reports of one finished run."""

    scores: Mapping[str, Mapping[str, Scores]]
    """Method -> held-out set -> question -> 1 or 0."""
    seconds: Mapping[str, float]
    """Stage -> seconds over all sessions, without measurement."""
    stages: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]


def main() -> None:
    given = arguments()
    runs = given.runs / (f"limit-{given.limit}" if given.limit else "whole")
    page = [head(given)]
    for domain in given.domains.split(","):
        found = [run(domain, seed, runs / f"{domain}-{seed}", given) for seed in range(given.seeds)]
        arms = ablation(domain, runs / f"{domain}-0", given) if domain in given.ablate.split(",") else []
        student = read_config(domain, given.set).student.identity
        page.append(section(domain, student, found, arms))
    page.append(FOOT)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join(page), encoding="utf-8")
    print(f"written: {given.out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--domains", default="quickstart,units", help="presets, with commas")
    parser.add_argument("--ablate", default="quickstart", help="those of them whose stage 3 is run by every profile")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--profiles", default="own,paper,best", help="of stage 3, for meteor ablate")
    parser.add_argument("--limit", type=int, help="questions a stage and held-out set: for trying this program only")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "results", help="where the runs are kept")
    parser.add_argument("--set", action="append", default=[], help="a setting of all runs, key.path=value")
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    if given.limit and given.out == PAGE:
        parser.error(f"with --limit the figures mean nothing: name another file than {PAGE.name} with --out")
    return given


def run(domain: str, seed: int, folder: Path, given: argparse.Namespace) -> Run:
    """Make the run, or finish it, and read it."""
    seeds = {"questions.seed": seed, "training.seed": seed, "student.sampling.seed": seed}
    meteor("run", domain, folder, given, *(f"--set={name}={value}" for name, value in seeds.items()))
    with closing(open_for_reading(folder / "run.db")) as records:
        status = read_status(records)
        return Run(
            scores=dict(scores_of(records)),
            seconds={name: stage["seconds"] for name, stage in status["stages"].items()},
            stages=status["stages"],
            rounds=status["rounds"],
        )


def ablation(domain: str, folder: Path, given: argparse.Namespace) -> list[Arm]:
    """The profiles of stage 3, from the stage-2 student of the first seed's run."""
    meteor("ablate", domain, folder, given, f"--profiles={given.profiles}", f"--seeds={given.seeds}")
    return ARMS.validate_json((folder / FOLDER / FOUND).read_bytes())


def meteor(command: str, domain: str, folder: Path, given: argparse.Namespace, *options: str) -> None:
    """Run a command, without guidelines: the teacher gives the data's references and cannot read a guideline."""
    fixed = [domain, f"--run-dir={folder}", "--set=distill.guideline=false", *(f"--set={one}" for one in given.set)]
    cut = [f"--limit={given.limit}"] if given.limit else []
    print(f"==> meteor {command} {domain} in {folder}", flush=True)
    done = subprocess.run([sys.executable, "-m", "meteor_agents.cli", command, *fixed, *cut, *options], check=False)
    if done.returncode:
        sys.exit(f"meteor {command} ended with {done.returncode}; run the same command again to continue")


def scores_of(records: Records) -> Iterator[tuple[str, dict[str, Scores]]]:
    """Each method with its scores, from the newest evaluation of its checkpoint."""
    for label, version in records.lineage().items():
        found: dict[str, dict[str, float]] = {}
        for heldout, id_, result in records.all_scores(version):
            status = read_graded_reply(result, id_).status
            if status is not Status.ERROR:
                found.setdefault(heldout, {})[id_] = float(status is Status.CORRECT)
        yield label, dict(found)


# the page ------------------------------------------------------------------------------------------------------------


def head(given: argparse.Namespace) -> str:
    command = " ".join(["python benchmarks/results.py", *sys.argv[1:]])
    limited = f"\n\n**Cut to {given.limit} questions a stage: these figures mean nothing.**" if given.limit else ""
    return f"""\
# What the method brings

Made by `make results` (`{command}`) on {date.today():%Y-%m-%d}: {os.cpu_count()} cores, {platform.machine()}, Python
{platform.python_version()}. {given.seeds} seed{"s" if given.seeds > 1 else ""}; a seed decides sampling, training and
the choice of the gate's questions.{limited}

- *Equal teacher answers.* Every row has had the same teacher answers, those of stage 1. Stages 2 and 3 use further
  questions, and learn about them only what the verifier says of the student's own replies: right or wrong, and a hint.
  The verifier knows the references, so these stages are supervised, but they have no answers to copy.
- *Accuracy* is the share of correct greedy replies to held-out questions, averaged over the seeds for each question.
  Intervals are 95 % intervals: Wilson's for an accuracy, a paired bootstrap over the questions for a gain. They describe the
  variation between questions, not between seeds; the gain of each seed is printed beside them.
- *A gain* or *a loss* is stated if the interval excludes 0. Otherwise this data cannot distinguish the effect from zero.
"""


def section(domain: str, student: str, found: Sequence[Run], arms: Sequence[Arm]) -> str:
    sets = list(dict.fromkeys(heldout for run_ in found for by_set in run_.scores.values() for heldout in by_set))
    parts = [f"## {domain}", "", f"Student: {student}. {counts(found)}", ""]
    for heldout in sets:
        parts += [f"### {heldout}", "", *table(heldout, found), ""]
        if arms:
            parts += [
                "Profiles of stage 3, all from the same stage-2 student (`meteor ablate`):",
                "",
                *profiles(heldout, arms),
                "",
            ]
    return "\n".join(parts)


def counts(found: Sequence[Run]) -> str:
    """How many questions each stage had, and how many updates were promoted."""
    first = found[0].stages
    asked = ", ".join(f"{name} {stage['questions']}" for name, stage in first.items() if name != "finetune")
    promoted = [f"{sum(r['promoted'] for r in run_.rounds)} of {len(run_.rounds)}" for run_ in found]
    return f"Questions: {asked}. Updates promoted, by seed: {', '.join(promoted)}."


def table(heldout: str, found: Sequence[Run]) -> list[str]:
    lines = [
        "| student | accuracy | gain over the row above | by seed | minutes |",
        "|---|---|---|---|---|",
    ]
    before: str | None = None
    for label, name in METHODS.items():
        own = [run_.scores[label][heldout] for run_ in found if heldout in run_.scores.get(label, {})]
        if len(own) < len(found):
            continue
        gain = by_seed = "-"
        if before is not None:
            pairs = [(run_.scores[before][heldout], run_.scores[label][heldout]) for run_ in found]
            gain = judged(paired(pairs))
            by_seed = ", ".join(f"{paired([pair]).value:+.1%}" for pair in pairs)
        minutes = (
            sum(run_.seconds.get(stage, 0.0) for run_ in found for stage in STAGES.get(label, ())) / len(found) / 60
        )
        lines.append(f"| {name} | {written(share(averaged(own)))} | {gain} | {by_seed} | {minutes:.1f} |")
        before = label
    return lines


def profiles(heldout: str, arms: Sequence[Arm]) -> list[str]:
    lines = ["| profile | accuracy | gain over stage 2 | by seed | pairs |", "|---|---|---|---|---|"]
    for row in [row for row in rows(arms) if row.heldout == heldout]:
        pairs = ", ".join(f"{arm.pairs} of {arm.questions}" for arm in arms if arm.profile == row.profile)
        by_seed = ", ".join(f"{gain:+.1%}" for gain in row.by_seed)
        lines.append(f"| {row.profile} | {written(row.score)} | {judged(row.gain)} | {by_seed} | {pairs} |")
    first, *others = dict.fromkeys(arm.profile for arm in arms)
    return [*lines, "", *(f"{name} over {first}: {judged(difference(arms, heldout, first, name))}." for name in others)]


def paired(pairs: Sequence[tuple[Scores, Scores]]) -> Interval:
    """The gain by question, averaged over the seeds."""
    gains = averaged([{id_: after[id_] - before[id_] for id_ in after if id_ in before} for before, after in pairs])
    return mean(list(gains.values()))


def share(scores: Scores) -> Interval:
    """The share of correct replies, averaged over the seeds by question, with Wilson's limits (valid at 0 and 100 %)."""
    return proportion(math.fsum(scores.values()), len(scores))


def written(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.1%} ({interval.low:{sign}.1%} to {interval.high:{sign}.1%})"


def judged(interval: Interval) -> str:
    if not any(interval):
        return "+0.0%: no question differs"
    if interval.low > 0:
        return f"{written(interval, '+')}: a gain"
    return f"{written(interval, '+')}: " + ("a loss" if interval.high < 0 else "not distinguishable from 0")


FOOT = """\
Minutes are those of a stage's conversations and updates, averaged over the seeds, without measurement.
"""


if __name__ == "__main__":
    main()
