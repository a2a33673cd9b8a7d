"""Profiles of stage 3 compared: the same start, the same questions, several seeds, and their differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from meteor_agents.evaluation.results import GradedReply, read_graded_reply
from meteor_agents.evaluation.statistics import Interval, mean, proportion
from meteor_agents.messages import Status
from meteor_agents.method.conversations import SELF_TRAIN
from meteor_agents.method.decoding.opening import BASE as CONTRAST_BASE
from meteor_agents.pipeline.checkpoints import BASE
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.pipeline.session import Session
from meteor_agents.pipeline.stages.self_training import SelfTraining
from meteor_agents.settings.run import Settings
from meteor_agents.settings.stages import instead
from meteor_agents.traces import Outcome
from meteor_agents.training import Checkpoint

OWN = "own"
"""The settings file's own stage 3, as a profile."""
KEPT = 10_000
"""How many checkpoints are kept: a repeated command looks up each variant's."""

Scores = Mapping[str, float]
"""Question id -> 1 or 0 with a verifier, the mean of the five criteria with a model judge."""


class Arm(BaseModel):
    """One profile under one seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str
    seed: int
    checkpoint: str
    """The weights version at its end; the start's own if nothing was trained or promoted."""
    pairs: int
    questions: int
    flops: float | None
    """Estimated FLOPs of decoding all pairs, dropped ones included."""
    start: dict[str, dict[str, float]]
    """Held-out set -> scores of the start: the same for all arms, except for questions that were never answered."""
    end: dict[str, dict[str, float]]
    """Held-out set -> scores of the arm's last checkpoint."""


@dataclass(frozen=True, slots=True)
class Row:
    """One profile on one held-out set, over all seeds. Intervals describe variation between questions, not seeds."""

    profile: str
    heldout: str
    seeds: int
    questions: int
    score: Interval
    """Wilson's interval for shares, bootstrapped over the questions for the criteria."""
    gain: Interval
    """The gain over the start, question by question; the interval is bootstrapped."""
    by_seed: tuple[float, ...]
    """The gain of each seed."""


def variant(
    settings: Settings, untrained: Path, start: Checkpoint, fragment: Mapping[str, Any] | None, seed: int
) -> Settings:
    """Settings of one arm: its student is the checkpoint `start`. Raises pydantic's `ValidationError`.

    A contrast with the base is one with `untrained`, the folder that the run itself began with.
    """
    content = settings.model_dump(mode="json", exclude_none=True)
    content["student"]["model"] = str(start.path)
    content["student"]["sampling"]["seed"] = seed
    content["training"]["seed"] = seed
    content["checkpoints"]["keep"] = KEPT
    stage = content["self_train"]
    if fragment is not None:
        stage = instead(stage, fragment)
    stage["training"] = {name: value for name, value in stage.get("training", {}).items() if name != "seed"}
    for side in ("low", "high"):
        decoding = stage.get(side)
        if isinstance(decoding, Mapping) and decoding.get("contrast") == CONTRAST_BASE:
            stage[side] = {**decoding, "contrast": str(untrained)}
    return Settings.model_validate({**content, "self_train": stage}).based_in(settings.base)


async def run_arm(session: Session, profile: str, seed: int) -> Arm:
    """Stage 3 and its measurement, from the session's own student."""
    pipeline = Pipeline(session)
    session.lineage = {BASE: session.base}
    await pipeline.evaluate(only=[BASE])
    training = SelfTraining(session)
    await session.arrived(SELF_TRAIN, await training.train(session.base))
    await pipeline.evaluate(only=[SELF_TRAIN])
    ended = session.lineage[SELF_TRAIN]
    kept, asked, flops = _decoded(session, training)
    return Arm(
        profile=profile,
        seed=seed,
        checkpoint=ended.version,
        pairs=kept,
        questions=asked,
        flops=flops,
        start=_scores(session, session.base),
        end=_scores(session, ended),
    )


def rows(arms: Sequence[Arm]) -> list[Row]:
    """One row for each held-out set and profile, in the order in which they were run."""
    profiles = list(dict.fromkeys(arm.profile for arm in arms))
    sets = list(dict.fromkeys(name for arm in arms for name in arm.end))
    return [_row(name, heldout, [arm for arm in arms if arm.profile == name]) for heldout in sets for name in profiles]


def difference(arms: Sequence[Arm], heldout: str, one: str, other: str) -> Interval:
    """How much better `other` is than `one`, question by question, each averaged over its seeds."""
    first, second = (averaged([arm.end[heldout] for arm in arms if arm.profile == name]) for name in (one, other))
    return mean([second[id_] - first[id_] for id_ in first if id_ in second])


def _row(profile: str, heldout: str, arms: Sequence[Arm]) -> Row:
    before, after = (averaged([getattr(arm, side)[heldout] for arm in arms]) for side in ("start", "end"))
    both = [id_ for id_ in after if id_ in before]
    reached = [after[id_] for id_ in both]
    return Row(
        profile=profile,
        heldout=heldout,
        seeds=len(arms),
        questions=len(both),
        score=proportion(math.fsum(reached), len(both)) if max(reached, default=0) <= 1 else mean(reached),
        gain=mean([after[id_] - before[id_] for id_ in both]),
        by_seed=tuple(_gain(arm, heldout) for arm in arms),
    )


def _gain(arm: Arm, heldout: str) -> float:
    before, after = arm.start[heldout], arm.end[heldout]
    both = [id_ for id_ in after if id_ in before]
    return math.fsum(after[id_] - before[id_] for id_ in both) / max(1, len(both))


def averaged(seeds: Sequence[Scores]) -> dict[str, float]:
    """Each question's mean over the seeds, for questions that every seed has a score for."""
    first, *others = seeds
    common = [id_ for id_ in first if all(id_ in scores for scores in others)]
    return {id_: math.fsum(scores[id_] for scores in seeds) / len(seeds) for id_ in common}


def _decoded(session: Session, training: SelfTraining) -> tuple[int, int, float | None]:
    """Pairs, questions and estimated FLOPs over all turns."""
    traces = [trace for turn in training.held for trace in session.store.traces(*turn)]
    kept = sum(trace.outcome is Outcome.ACCEPTED for trace in traces)
    lineages = [trace.lineage for trace in traces if trace.lineage is not None]
    flops = [side.flops for lineage in lineages for side in (lineage.low, lineage.high)]
    known = [value for value in flops if value is not None]
    return kept, len(traces), math.fsum(known) if len(known) == len(flops) else None


def _scores(session: Session, checkpoint: Checkpoint) -> dict[str, dict[str, float]]:
    recipe = session.recipes.evaluate()
    found: dict[str, dict[str, float]] = {}
    for heldout in session.questions.heldout:
        results = session.store.scores(checkpoint.version, heldout, recipe)
        scored = {id_: _score(read_graded_reply(result, id_)) for id_, result in results.items()}
        found[heldout] = {id_: score for id_, score in scored.items() if score is not None}
    return found


def _score(result: GradedReply) -> float | None:
    if result.scores is not None:
        return sum(result.scores.values()) / len(result.scores)
    return None if result.status is Status.ERROR else float(result.status is Status.CORRECT)
