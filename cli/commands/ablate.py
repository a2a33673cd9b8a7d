"""`meteor ablate`: compare profiles of stage 3, each run with several seeds from the same stage-2 checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from meteor_agents.analysis.ablation import OWN, Arm, difference, rows, run_arm, variant
from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.opening import stored_lineage
from meteor_agents.assembly.question_sets import SET_APART
from meteor_agents.backends.base_model import base_checkpoint
from meteor_agents.cli.commands.run import RunRequest, run_stage
from meteor_agents.cli.terminal import PlainConsole, say
from meteor_agents.errors import SettingsError, UsageError
from meteor_agents.evaluation.statistics import Interval
from meteor_agents.method.conversations import REFINE
from meteor_agents.nearest import did_you_mean
from meteor_agents.pipeline.session import Session
from meteor_agents.settings.run import Settings
from meteor_agents.settings.stages import PROFILES
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.store import Store
from meteor_agents.training import Checkpoint

FOLDER = "ablation"
"""Inside the run directory: the run directory of the ablation. Its student is the stage-2 checkpoint."""
FOUND = "ablation.json"
"""Inside `FOLDER`: the result of each profile under each seed."""
ARMS = TypeAdapter(list[Arm])
"""Reads and writes `FOUND`."""


def ablate(
    config: str,
    *,
    profiles: str,
    seeds: int,
    run_dir: Path | None,
    overrides: tuple[str, ...],
    limit: int | None,
) -> None:
    """Run what is not done yet, then print the comparison. The run itself is only read.

    Raises `UsageError` for an unknown profile and when the run has no stage-2 checkpoint, and what `run_stage` raises.
    """
    settings = read_config(config, overrides)
    run = run_dir or Path("runs") / settings.name
    fragments = {name: _fragment(name) for name in dict.fromkeys(profiles.split(","))}
    untrained = base_checkpoint(settings.student)
    start, set_apart = _start(run, untrained)
    wanted = {
        (name, seed): _variant(settings, untrained.path, start, fragment, name, seed)
        for name, fragment in fragments.items()
        for seed in range(seeds)
    }
    _set_apart_alike(RunDirectory(run / FOLDER), set_apart)
    arms: list[Arm] = []
    for (name, seed), varied in wanted.items():
        say(f"==> profile {name}, seed {seed}")

        async def work(session: Session, name: str = name, seed: int = seed) -> None:
            arms.append(await run_arm(session, name, seed))

        request = RunRequest(config, run / FOLDER, limit=limit, settings=varied, work=work)
        run_stage("self-train", request)
    (run / FOLDER / FOUND).write_bytes(ARMS.dump_json(arms, indent=1))
    print_ablation(arms, start)


def print_ablation(arms: Sequence[Arm], start: Checkpoint, console: Console | None = None) -> None:
    """Print one table per held-out set, then the differences between profiles."""
    console = console or PlainConsole()
    found = rows(arms)
    for heldout in dict.fromkeys(row.heldout for row in found):
        table = Table(title=f"{heldout}: stage 3 from {start.version} (95 % intervals)", title_justify="left")
        for column in ("profile", "after stage 3", "gain", "gain by seed", "pairs", "FLOPs"):
            table.add_column(column, justify="left" if column == "profile" else "right")
        for row in [row for row in found if row.heldout == heldout]:
            own = [arm for arm in arms if arm.profile == row.profile]
            flops = [arm.flops for arm in own if arm.flops is not None]
            table.add_row(
                row.profile,
                _written(row.score, arms),
                _written(row.gain, arms, "+"),
                " ".join(_number(gain, arms, "+") for gain in row.by_seed),
                " ".join(f"{arm.pairs}/{arm.questions}" for arm in own),
                f"{sum(flops):.2g}" if len(flops) == len(own) else "-",
            )
        console.print(table)
        first, *others = dict.fromkeys(arm.profile for arm in arms)
        for other in others:
            apart = difference(arms, heldout, first, other)
            meaning = "" if apart.low > 0 or apart.high < 0 else ": not distinguishable from zero"
            found_apart = f"{_written(apart, arms, '+')}{meaning}" if any(apart) else "no question differs"
            console.print(f"{other} over {first}: {found_apart}", highlight=False, markup=False)
    console.print(
        "Each question's score is averaged over the seeds. Intervals reflect the choice of questions, not of seeds. FLOPs "
        "are estimates for decoding the pairs.",
        highlight=False,
    )


def _fragment(name: str) -> Mapping[str, Any] | None:
    """The settings of a profile: a built-in one, `own` (None), or a YAML file with settings of self_train."""
    if name == OWN:
        return None
    if name in PROFILES:
        return {"profile": name}
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        hint = did_you_mean(name, [*PROFILES, OWN], among="profiles")
        raise UsageError(f"--profiles: there is no profile {name!r}; {hint} (or name a YAML file)")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--profiles: {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"--profiles: {path} must hold settings of self_train as key: value")
    return content


def _start(run: Path, untrained: Checkpoint) -> tuple[Checkpoint, Any]:
    """The checkpoint that the run's stage 2 ended with, and the questions that the run set apart."""
    if not (run / "run.db").exists():
        raise UsageError(f"{run} is not a run directory; run `meteor refine CONFIG` first, or name it with --run-dir")
    with closing(open_for_reading(run / "run.db")) as records:
        lineage = stored_lineage(records, untrained, (run / "checkpoints").resolve())
        set_apart = records.meta(SET_APART)
    if REFINE not in lineage:
        raise UsageError(f"{run} has no stage-2 checkpoint of this student yet; run `meteor refine CONFIG` first")
    return lineage[REFINE], set_apart


def _set_apart_alike(directory: RunDirectory, set_apart: Any) -> None:
    """Make the ablation hold out the same questions as the run."""
    with directory, closing(Store(directory.database)) as store:
        asyncio.run(store.set_meta(SET_APART, set_apart))


def _variant(
    settings: Settings, untrained: Path, start: Checkpoint, fragment: Mapping[str, Any] | None, name: str, seed: int
) -> Settings:
    try:
        return variant(settings, untrained, start, fragment, seed)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"profile {name}: {key}: {first['msg'].removeprefix('Value error, ')}") from error


def _written(interval: Interval, arms: Sequence[Arm], sign: str = "") -> str:
    value, low, high = (_number(part, arms, sign) for part in interval)
    return f"{value} ({low} to {high})"


def _number(value: float, arms: Sequence[Arm], sign: str = "") -> str:
    """As a percentage if all scores are between 0 and 1 (verifiers), else as a score (model judges)."""
    shares = all(score <= 1 for arm in arms for scores in arm.start.values() for score in scores.values())
    return f"{value:{sign}.1%}" if shares else f"{value:{sign}.2f}"
