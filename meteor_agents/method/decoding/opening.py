"""From a setting such as `{best_of: 8, by: judge}` to a decoding strategy, and whether a model can do it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from meteor_agents.abilities import DecodesBeams, DecodesContrast, ScoresReplies
from meteor_agents.errors import SettingsError
from meteor_agents.method.decoding.direct import Revise, Single
from meteor_agents.method.decoding.sampled import BestOf, Vote
from meteor_agents.method.decoding.strategy import Strategy
from meteor_agents.method.judges import Judge
from meteor_agents.models import Contrast, SamplingParams
from meteor_agents.settings.decoding import Decoding, decoding
from meteor_agents.settings.run import Settings
from meteor_agents.training import Checkpoint
from meteor_agents.weight_files import parameters

Setting = Literal["greedy"] | Decoding
BASE = "base"
"""The weaker model of `contrast: base`: the untrained student."""


def open_strategy(given: Setting, base: SamplingParams, judge: Judge, untrained: Checkpoint) -> Strategy:
    """The strategy that a setting names. `base` is the student's own sampling, `untrained` its first checkpoint."""
    sampling = decoding(given, base)
    name = described(given, free=judge.free)
    if given == "greedy":
        return Single(name, sampling)
    if given.best_of is not None:
        by: Literal["judge", "likelihood"] = "likelihood" if given.by == "likelihood" else "judge"
        return BestOf(name, sampling, given.best_of, by, judge)
    if given.vote is not None:
        return Vote(name, sampling, given.vote, _voted(given, free=judge.free), judge)
    if given.revise is not None:
        return Revise(name, sampling, given.revise)
    if given.contrast is not None:
        contrast = _contrast(given, untrained)
        passes = 1 + _relative_size(Path(contrast.folder), untrained.path)
        return Single(name, sampling.model_copy(update={"contrast": contrast}), passes, passes)
    return Single(name, sampling, reply_passes=given.beam or 1)


def described(given: Setting, *, free: bool) -> str:
    """The strategy in a few words. `free`: the judge is a verifier."""
    if given == "greedy":
        return "greedy"
    if given.best_of is not None:
        return f"best of {given.best_of} by {given.by or 'judge'}"
    if given.vote is not None:
        return f"vote of {given.vote} by {_voted(given, free=free)}"
    if given.contrast is not None:
        return f"contrast with {given.contrast}"
    if given.revise is not None:
        return f"revise {given.revise}"
    return f"beam {given.beam}" if given.beam is not None else f"sample {given.sample:g}"


def check_strategies(settings: Settings, student: object) -> None:
    """Check that the student's model can do what stage 3 decodes.

    `student` is the innermost model. Raises `SettingsError`, with the nearest strategy that it can do.
    """
    for side in ("low", "high"):
        given: Setting = getattr(settings.self_train, side)
        if given == "greedy":
            continue
        if given.contrast not in (None, BASE) and not (Path(str(given.contrast)) / "config.json").is_file():
            raise SettingsError(
                f"self_train.{side}.contrast: {given.contrast!r} is neither `{BASE}` nor a model folder on this machine; "
                "name one, relative to the settings file, whose vocabulary is the student's"
            )
        lacks = _lacking(given, student)
        if lacks is not None:
            raise SettingsError(
                f"self_train.{side}: the student's backend {settings.student.backend} {lacks}; the nearest it can do is "
                f"{side}: {_nearest(given, student)}"
            )


def _lacking(given: Decoding, student: object) -> str | None:
    if given.beam is not None:
        if not isinstance(student, DecodesBeams):
            return "has no beam search"
        if given.beam > student.max_beams:
            return f"searches with at most {student.max_beams} beams (student.max_batch), not {given.beam}"
    if given.by == "likelihood" and not isinstance(student, ScoresReplies):
        return "does not tell how likely a reply is"
    if given.contrast is not None and not isinstance(student, DecodesContrast):
        return "has no contrastive decoding"
    return None


def _nearest(given: Decoding, student: object) -> str:
    """The strategy most like this one, in its cost and in what it looks for, that the student can do."""
    if given.beam is not None and isinstance(student, DecodesBeams) and student.max_beams > 1:
        return f"{{beam: {student.max_beams}}}"
    if given.beam is not None and isinstance(student, ScoresReplies):
        return f"{{best_of: {given.beam}, by: likelihood}}"
    if given.contrast is not None:
        return "{revise: 1}"
    return f"{{best_of: {given.samples if given.samples > 1 else given.beam}, by: judge}}"


def _voted(given: Decoding, *, free: bool) -> Literal["answer", "text"]:
    if given.by is None:
        return "answer" if free else "text"
    return "text" if given.by == "text" else "answer"


def _contrast(given: Decoding, untrained: Checkpoint) -> Contrast:
    assert given.contrast is not None
    own = given.contrast == BASE
    content = Contrast(
        against=untrained.version if own else given.contrast, folder=str(untrained.path if own else given.contrast)
    )
    chosen = {name: value for name in ("alpha", "beta") if (value := getattr(given, name)) is not None}
    return content.model_copy(update=chosen)


def _relative_size(folder: Path, student: Path) -> float:
    """The weaker model's parameters relative to the student's; 1 where they cannot be read."""
    weaker, own = parameters(folder), parameters(student)
    return weaker / own if weaker and own else 1.0
