"""The three stages of a run: `distill`, `refine` and `self_train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from meteor_agents.settings.decoding import Decoding
from meteor_agents.settings.section import Section
from meteor_agents.training import LossName, PairwiseLoss

STAGES_THAT_TRAIN = ("distill", "refine", "self_train")
"""The sections of the stages, in the order in which a run does them."""


class TakeSettings(Section):
    """Which of the training questions a stage uses, and how its training differs from that of the run."""

    questions: int | None = Field(default=None, ge=1)
    """At most this many questions, in the file's order; all when absent."""
    skip: int = Field(default=0, ge=0)
    """Leave out this many questions at the start, for example those of an earlier stage."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Keys of `training` that this stage sets differently, such as `{epochs: 1}`."""


class DistillSettings(TakeSettings):
    """Stage 1: the student learns from the teacher's answers."""

    guideline: bool = True
    """The student first writes a guideline that the teacher follows. `false` is plain distillation. A
    `reference` teacher cannot read a guideline, so none is asked for."""
    revise: bool = False
    """The student also attempts each question. What the judge finds wrong with it, and the teacher's answer, become a
    further example, which teaches the student to revise. Costs no call of the teacher."""


class LossSettings(TakeSettings):
    """The loss of a stage that trains on preference pairs. docs/training.md has the equations."""

    loss: LossName = "hinge"
    """Which pairwise loss to use. Each has its own parameters, with its own defaults; a parameter that the loss does not
    have is refused."""
    margin: float | None = Field(default=None, gt=0)
    """hinge: how far the preferred reply must be ahead, in nats per token (0.1). simpo: its gamma (1.0)."""
    beta: float | None = Field(default=None, gt=0)
    """dpo, rdpo, kto: how strongly the student is held to the weights that it starts from (0.1). ipo: the target is
    1 / (2 beta) per token (0.5). simpo: the scale of the difference (2.0)."""
    label_smoothing: float | None = Field(default=None, ge=0, lt=0.5)
    """dpo, rdpo: the share of pairs that are assumed to be the wrong way round (0 and 0.1)."""
    nll: float = Field(default=0.0, ge=0)
    """Weight of the preferred reply's own negative log-likelihood, added to the loss to prevent forgetting."""
    length_desensitise: float = Field(default=1.0, ge=0, le=1)
    """Weight of the tokens by which one reply is longer than the other (arXiv 2409.06411): 1 counts them in full, 0 not
    at all."""

    @property
    def pairwise(self) -> PairwiseLoss:
        """The loss with all its parameters, defaults filled in."""
        names = ("margin", "beta", "label_smoothing", "nll", "length_desensitise")
        return PairwiseLoss.model_validate({"name": self.loss, **{name: getattr(self, name) for name in names}})

    @model_validator(mode="after")
    def _loss_is_valid(self) -> Self:
        try:
            _ = self.pairwise
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        return self


class RefineSettings(LossSettings):
    """Stage 2: the student tries, the judge says what is wrong, and the student learns from what it gets right."""

    iterations: int = Field(default=3, ge=1)
    """Tries for one question (N in the paper)."""
    update_every: int = Field(default=10, ge=1)
    """Accepted traces until the student is trained again (K in the paper)."""
    guide_from: Literal["judge", "teacher", "none"] = "judge"
    """Who writes the guide that follows a wrong try. `none`: the next try answers the same prompt as the first."""
    exhausted: Literal["drop", "teacher"] = "drop"
    """What becomes of a question that no try got right. `teacher`: the teacher answers it, and if the judge finds the answer
    correct it trains the student. The teacher is then paid only for what the student cannot do."""
    conversion: Literal["final", "revise", "history", "chat", "pairs"] = "final"
    """What a trace teaches. `final`: the accepted reply. `revise`: that, and to give it after the last wrong try and its
    guide. `history`: all tries and what was wrong with them, as one reply.
    `chat`: the tries as one chat; the student is then also asked in one chat. `pairs`: the accepted reply is preferred to
    the rejected ones, with `loss`."""
    init: Literal["previous", "base", "pretrained"] = "previous"
    """Which weights an update starts from: `previous`, the student as it is now, `base`, as it entered the stage, or
    `pretrained`, the untrained student (with `data: cumulative` and `replay: all`, so that it learns everything anew)."""
    data: Literal["buffer", "cumulative"] = "buffer"
    """What an update trains on: `buffer`, the traces since the last update, or `cumulative`, all that were accepted."""
    mode: Literal["sync", "overlap"] = "sync"
    """`sync`: conversations wait while the student is trained. `overlap`: they continue with the old weights."""
    staleness: int = Field(default=1, ge=1)
    """With `mode: overlap`: how many updates the weights in use may be behind before conversations wait."""
    replay: Literal["all"] | Annotated[float, Field(ge=0, le=4)] = 0.0
    """Examples of stage 1 to mix into each update against forgetting, as a share of the update's own examples; or `all`."""

    @property
    def in_one_chat(self) -> bool:
        """The student sees its earlier tries as turns of one chat."""
        return self.conversion == "chat"

    @model_validator(mode="after")
    def _loss_and_rows_agree(self) -> Self:
        pairs = self.conversion == "pairs"
        if pairs and self.replay:
            raise ValueError("replay adds examples, which cannot be trained on together with pairs; use nll instead")
        of_the_loss = LossSettings.model_fields.keys() - TakeSettings.model_fields.keys()
        if self.guide_from == "none" and self.conversion in ("revise", "history", "chat"):
            raise ValueError(f"conversion: {self.conversion} needs guides; with guide_from: none use final or pairs")
        given = [name for name in of_the_loss if getattr(self, name) != LossSettings.model_fields[name].default]
        if given and not pairs:
            raise ValueError(f"{min(given)} belongs to conversion: pairs; this conversion trains on single replies")
        return self


class SelfTrainSettings(LossSettings):
    """Stage 3: the student learns to prefer its own replies from a stronger decoding to those from a weaker one."""

    profile: Literal["paper", "best"] | None = None
    """A named set of values for this section: `paper`, as published, or `best`, with verified pairs and DPO. Keys that are
    given beside it take precedence."""
    turns: int = Field(default=1, ge=1)
    """How often pairs are made and trained on. Each turn's pairs come from the student of the turn before."""
    stop_early: bool = False
    """Stop after a turn that answers no more gate questions correctly than the best turn before, and keep that turn's
    student. Needs a verifier as judge."""
    low: Literal["greedy"] | Decoding = "greedy"
    """How the reply that is not preferred is decoded."""
    high: Literal["greedy"] | Decoding = Decoding(beam=10)
    """How the preferred reply is decoded."""
    verify: bool | Literal["judge", "verifier", "self"] = False
    """Keep a pair only if the high reply is found correct and the low one is not. `true` or `judge`: the judge decides.
    `verifier`: the judge decides, and must be a verifier. `self`: the student decides, without seeing the reference."""
    near_equal: float = Field(default=0.95, gt=0, le=1)
    """Leave out a pair whose final answers share at least this much of their words and word pairs."""
    max_length_ratio: float | None = Field(default=None, ge=1)
    """Leave out a pair of which one reply has more than this many times the characters of the other, so that the student
    does not learn to prefer length; no limit when absent."""

    @model_validator(mode="before")
    @classmethod
    def _over_the_profile(cls, given: Any) -> Any:
        return under(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _two_decodings(self) -> SelfTrainSettings:
        if self.low == self.high:
            raise ValueError("low and high are the same decoding; no pair could have a preference")
        return self


DECIDES_PAIRS = ("low", "high", "verify", "near_equal", "max_length_ratio")
"""Settings of `self_train` that decide which pairs there are."""


PROFILES: Mapping[str, Mapping[str, Any]] = {
    "paper": {"low": "greedy", "high": {"beam": 10}, "verify": False, "loss": "hinge", "nll": 0.0},
    "best": {"low": "greedy", "high": {"best_of": 8, "by": "judge"}, "verify": True, "loss": "dpo", "nll": 1.0},
}
"""`paper`: greedy against beam search with 10 beams, trained with a pairwise hinge loss. `best`: DPO on pairs whose high
reply the judge finds correct and whose low one it does not, with a term that keeps the preferred reply likely."""


REPLACED = frozenset(
    {name for profile in PROFILES.values() for name in profile}
    | {"profile", "margin", "beta", "label_smoothing", "length_desensitise", "near_equal", "max_length_ratio"}
)
"""What a profile must not inherit from another: everything that decides pairs and loss. Turns, questions and training
stay."""


def under(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of stage 3 with the values of their `profile` filled in. An unknown profile is left to validation."""
    return {**PROFILES.get(str(given.get("profile")), {}), **given}


def instead(given: Mapping[str, Any], fragment: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of stage 3 with pairs and loss decided by `fragment` alone."""
    return {**{name: value for name, value in given.items() if name not in REPLACED}, **fragment}
