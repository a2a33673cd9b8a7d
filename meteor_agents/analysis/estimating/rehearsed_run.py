"""A run without model calls: replies are stored or imagined ones, and every call that a real run would make is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from meteor_agents.analysis.estimating.figures import Estimate, added, rounded
from meteor_agents.analysis.estimating.lengths import ENOUGH, Lengths
from meteor_agents.analysis.estimating.rehearsal import IMAGINED, Rehearsal, RehearsedSpeaker, RehearsedVerifier
from meteor_agents.calls.budget import Price
from meteor_agents.evaluation.grading import EVALUATE
from meteor_agents.evaluation.human_labels import HumanLabel
from meteor_agents.messages import Attempt, Question
from meteor_agents.method.conversations import REFINE
from meteor_agents.method.templates import Templates
from meteor_agents.models import TokenCounter
from meteor_agents.pipeline.cast import Cast, FreeJudges, RoleModel, cast_agents, role_models
from meteor_agents.pipeline.recipes import Recipes
from meteor_agents.pipeline.session import QuestionSets
from meteor_agents.settings.run import Settings
from meteor_agents.settings.stages import TakeSettings
from meteor_agents.store.records import Records
from meteor_agents.traces import Outcome
from meteor_agents.training import Checkpoint

QUESTIONS = 256
"""The most questions rehearsed in a stage. They are spread evenly over the data, and their figures are scaled up."""
WRONG_SHARE = 0.5
"""The assumed share of incorrect attempts, until the run has a share of its own."""


@dataclass(frozen=True, slots=True)
class Given:
    """Everything an estimate is made from."""

    settings: Settings
    questions: QuestionSets
    templates: Templates
    records: Records
    base: Checkpoint
    lineage: Mapping[str, Checkpoint]
    trains: bool
    free: FreeJudges
    prices: Mapping[str, Price | None]
    """Name of a model (`cast.role_models`) -> its price."""
    counters: Mapping[str, TokenCounter]
    """Name of a model -> how its tokens are counted; without an entry, by characters."""
    labels: Sequence[HumanLabel] = ()
    """People's labels; every judge is asked about the same replies."""


@dataclass(slots=True)
class RehearsedRun:
    """The agents of the settings with rehearsed speakers. `student` is None once its weights cannot be known in advance."""

    given: Given
    questions: int = QUESTIONS
    student: Checkpoint | None = field(init=False)
    rehearsal: Rehearsal = field(init=False)
    recipes: Recipes = field(init=False)
    models: dict[str, RoleModel] = field(init=False)
    lengths: dict[str, Lengths] = field(init=False)
    cast: Cast = field(init=False)
    largest: int = 0
    """Questions of the largest stage that was scaled up."""

    def __post_init__(self) -> None:
        given = self.given
        self.student = given.base
        self.recipes = Recipes(given.settings, given.templates.hashes())
        seen = _wrong_share(given.records)
        self.rehearsal = Rehearsal(given.records, WRONG_SHARE if seen is None else seen)
        self.models = role_models(given.settings)
        self.lengths = {
            name: Lengths.of(model.role, given.counters.get(name) or TokenCounter(), given.records)
            for name, model in self.models.items()
        }
        judge = given.free.judge
        free = FreeJudges(RehearsedVerifier(judge, self.rehearsal) if judge else None)
        self.cast = cast_agents(given.settings, given.templates, self._speaker, free)

    def _speaker(self, model: RoleModel) -> RehearsedSpeaker:
        lengths = self.lengths[model.name]
        return RehearsedSpeaker(
            model, self.rehearsal, self.rehearsal.expected[model.name], lengths.counter.count, lengths.reply_tokens
        )

    async def hold(
        self,
        stage: str,
        recipe: str | None,
        take: TakeSettings,
        conversation: Callable[[Question], Awaitable[object]],
        weights: tuple[str, ...] | None = None,
    ) -> int:
        """Rehearse the questions that a stage still owes; their number.

        `recipe` is None if it cannot be known in advance. `weights` are the versions whose stored replies count, by default
        the current student's.
        """
        given = self.given
        end = None if take.questions is None else take.skip + take.questions
        questions = given.questions.train[take.skip : end]
        retry = given.settings.retry_failed
        owed = given.records.owed(stage, recipe, questions, retry_failed=retry) if recipe else questions
        known = (self.student.version,) if self.student else ()
        self.rehearsal.weights = known if weights is None else weights
        await self.rehearse(owed, conversation)
        return len(owed)

    async def rehearse(
        self, questions: Sequence[Question], conversation: Callable[[Question], Awaitable[object]], times: int = 1
    ) -> None:
        """Hold a conversation about each question, or about a sample that is scaled up; count all of it `times` times."""
        count = min(len(questions), self.questions)
        if count < len(questions):
            self.largest = max(self.largest, len(questions))
        for i in range(count):
            self.rehearsal.begin(times * len(questions) / count)
            await conversation(questions[i * len(questions) // count])
            await asyncio.sleep(0)  # so that Ctrl-C is handled meanwhile

    def imagined_attempt(self) -> Attempt:
        """A reply of the expected length, in place of one that does not exist yet."""
        sampling = self.given.settings.student.sampling
        text = "word " * round(self.lengths["student"].reply_tokens(EVALUATE, sampling.max_tokens))
        return Attempt(text=text, reasoning="", answer=text, model=IMAGINED, weights=IMAGINED)

    def estimate(self) -> Estimate:
        """The estimate from the calls counted so far."""
        found = {name: rounded(self.rehearsal.expected[name], self.given.prices[name]) for name in self.models}
        roles = dict.fromkeys(model.role for model in self.models.values())
        return Estimate(
            roles={
                role: added(found[name] for name, model in self.models.items() if model.role == role) for role in roles
            },
            assumptions=tuple(self._assumptions()),
        )

    def _assumptions(self) -> list[str]:
        share = _wrong_share(self.given.records)
        source = "as in this run so far" if share is not None else "assumed"
        said = [f"{self.rehearsal.wrong_share:.0%} of the attempts are judged incorrect ({source})"]
        for name, lengths in self.lengths.items():
            said.append(f"{name}: {lengths.described(self.models[name].settings.sampling.max_tokens)}")
        if self.largest:
            said.append(f"rehearsed on {self.questions} questions a stage, of up to {self.largest:,}, and scaled up")
        unknown = [name for name in self.models if self.given.prices[name] is None]
        said += [f"{name}: no price is given, so the cost of its calls is unknown" for name in unknown]
        return said


def _wrong_share(records: Records) -> float | None:
    """The share of stage 2's attempts that this run judged incorrect; None while there are too few."""
    stages = [stage for stage in records.current_stages() if stage.name == REFINE]
    totals = [total for stage in stages for total in records.trace_totals(REFINE, stage.recipe)]
    right = sum(n for outcome, _, n in totals if outcome == Outcome.ACCEPTED)
    judged = [(outcome, tries, n) for outcome, tries, n in totals if outcome != Outcome.FAILED]
    wrong = sum((tries - (outcome == Outcome.ACCEPTED)) * n for outcome, tries, n in judged)
    return wrong / (right + wrong) if right + wrong >= ENOUGH else None
