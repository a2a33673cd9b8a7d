"""What a command is going to cost: calls, tokens and money by role, before anything is spent.

Every stage's conversations are rehearsed (`rehearsal`) on questions spread over the data, and scaled up. What a run
directory holds is honoured: settled traces are not held again, stored replies are not asked for again.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from . import conversations
from .agents import Judge, ModelJudge, ModelTeacher, Student, Teacher, Voice
from .calls import Price
from .comparison import compare
from .conversations import DISTILL, REFINE, SELF_TRAIN
from .evaluation import EVALUATE, RESULT, Panel, examine, grade, is_scored
from .gate import GATE
from .limits import CHARACTERS_PER_TOKEN
from .messages import Attempt, Question
from .models import Usage
from .pairs import PairRules
from .pipeline import BASE, LINEAGE, QuestionSets
from .recipes import FINETUNE, Recipes
from .rehearsal import COMPARISONS, IMAGINED, SCORES, VERDICTS, Expected, Rehearsal, RehearsedSpeaker, RehearsedVerifier
from .self_training import pair_rules, stage_of
from .settings import ModelSettings, Settings, TakeSettings, decoding
from .store import Records
from .strategies import open_strategy
from .templates import Templates
from .traces import Outcome, Trace
from .training import Checkpoint

QUESTIONS = 256
"""Rehearsed of a stage; more of them are scaled up from as many, spread evenly."""
WRONG_SHARE = 0.5
"""Assumed share of attempts that are judged incorrect, before a run has shown its own."""
REPLY_SHARE = {"student": 1 / 2, "teacher": 1 / 2, "judge": 1 / 6}
"""Assumed length of a reply, of `max_tokens`."""
ENOUGH = 5
"""Observations from which a figure is taken instead of an assumption."""
OBSERVED = 200
"""Stored calls, the newest, that a figure is taken from."""


class RoleEstimate(BaseModel):
    """What one role has still to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int
    reused: int
    """Replies that the store holds, and that are used instead of a call."""
    input_tokens: int
    output_tokens: int
    usd: float | None
    """None: no price is known."""


class Estimate(BaseModel):
    """What a command has still to do, and what this was concluded from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    roles: dict[str, RoleEstimate]
    assumptions: tuple[str, ...]

    @property
    def usd(self) -> float | None:
        known = [role.usd for role in self.roles.values()]
        return None if None in known else sum(usd for usd in known if usd is not None)

    @property
    def tokens(self) -> int:
        return sum(role.input_tokens + role.output_tokens for role in self.roles.values())


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """How a text's tokens are counted before a server has counted them, and what to call that."""

    count: Callable[[str], float] = lambda text: len(text) / CHARACTERS_PER_TOKEN
    name: str = f"{CHARACTERS_PER_TOKEN} characters a token"


@dataclass(frozen=True, slots=True)
class Given:
    """All that an estimate is made from."""

    settings: Settings
    questions: QuestionSets
    templates: Templates
    records: Records
    base: Checkpoint
    lineage: Mapping[str, Checkpoint]
    trains: bool
    teacher: Teacher | None
    """A teacher that asks no model; None: the one of the settings does."""
    judge: Judge | None
    """A judge that asks no model; None: the one of the settings does."""
    prices: Mapping[str, Price | None]
    counters: Mapping[str, TokenCounter]
    """By role; characters where there is none."""


async def estimate(command: str, given: Given, *, questions: int = QUESTIONS) -> Estimate:
    """What `meteor COMMAND` (run, distill, finetune, refine, self-train or evaluate) has still to do."""
    estimating = _Estimating(given, questions)
    await estimating.stages[command]()
    return estimating.estimate()


@dataclass(slots=True)
class _Estimating:
    """The stages in the order in which `Pipeline` runs them. `student` is None once its weights cannot be foretold."""

    given: Given
    questions: int
    student: Checkpoint | None = None
    rehearsal: Rehearsal = field(init=False)
    recipes: Recipes = field(init=False)
    roles: dict[str, _Role] = field(init=False)
    spread: int = 0
    """Questions of the largest stage that was scaled up."""

    def __post_init__(self) -> None:
        given = self.given
        self.student = given.base
        self.recipes = Recipes(given.settings, given.templates.hashes())
        seen = _wrong_share(given.records)
        self.rehearsal = Rehearsal(given.records, WRONG_SHARE if seen is None else seen)
        names = ["student"]
        names += ["teacher"] if given.teacher is None else []
        names += ["judge"] if given.judge is None else []
        self.roles = {name: _Role.of(name, given) for name in names}

    @property
    def stages(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        return {
            "run": self.run,
            "distill": self.distill,
            "finetune": self.finetune,
            "refine": self.refine_alone,
            "self-train": self.self_train_alone,
            "evaluate": self.measure,
        }

    async def run(self) -> None:
        await self.evaluate(BASE, self.student)
        owed = await self.distill()
        if self.given.trains:
            await self.finetune(again=bool(owed))
            await self.evaluate(FINETUNE, self.student)
        await self.refine()
        if self.given.trains:
            await self.evaluate(REFINE, self.student)
        await self.self_train()
        if self.given.trains:
            await self.evaluate(SELF_TRAIN, self.student)
            await self.compare_ends(self.student)
        await self.ask_again(self.student)

    async def refine_alone(self) -> None:
        self.student = self._latest(REFINE)
        await self.refine()

    async def self_train_alone(self) -> None:
        self.student = self._latest(SELF_TRAIN)
        await self.self_train()

    async def measure(self) -> None:
        for label, checkpoint in self.given.lineage.items():
            await self.evaluate(label, checkpoint)
        last = list(self.given.lineage.values())[-1]
        if last != self.given.base:
            await self.compare_ends(last)
        await self.ask_again(last)

    def _latest(self, before: str) -> Checkpoint:
        found = [self.given.lineage[label] for label in LINEAGE[: LINEAGE.index(before)] if label in self.given.lineage]
        return found[-1] if found else self.given.base

    # stages ----------------------------------------------------------------------------------------------------------

    async def distill(self) -> int:
        stage = self.given.settings.distill
        student, teacher = self.agents()
        return await self.hold(
            DISTILL,
            self.recipes.distill(self.given.base),
            stage,
            lambda question: conversations.distill(question, student, teacher, guideline=stage.guideline),
        )

    async def finetune(self, again: bool = False) -> None:
        done = self.given.lineage.get(FINETUNE)
        if done is not None and not again:
            self.student = done
            return
        await self.updates(1)

    async def refine(self) -> None:
        stage = self.given.settings.refine
        entered = self.student
        recipe = self.recipes.refine(entered, trains=self.given.trains) if entered else None
        rounds = self.given.records.rounds(REFINE, recipe) if recipe else []
        spoke = [round_.checkpoint for round_ in rounds if round_.promoted]
        student, teacher = self.agents()
        guide_by = teacher if stage.guide_from == "teacher" else None
        owed = await self.hold(
            REFINE,
            recipe,
            stage,
            lambda question: conversations.refine(
                question, student, self.judge(), iterations=stage.iterations, guide_by=guide_by
            ),
            weights=(*reversed(spoke), entered.version) if entered else (),
        )
        if not self.given.trains:
            return
        if owed:
            accepted = owed * (1 - self.rehearsal.wrong_share**stage.iterations)
            await self.updates(math.ceil(accepted / stage.update_every))
        else:
            self.student = self.given.lineage.get(REFINE, entered)

    async def self_train(self) -> None:
        stage, judge = self.given.settings.self_train, self.judge()
        low, high = (
            open_strategy(given, self.given.settings.student.sampling, judge, self.given.base)
            for given in (stage.low, stage.high)
        )
        for turn in range(1, stage.turns + 1):
            name = stage_of(turn)
            recipe = self.recipes.self_train(self.student, turn) if self.student else None
            student, _ = self.agents()
            rules = pair_rules(self.given.settings, student, judge)

            def conversation(
                question: Question, student: Student = student, rules: PairRules = rules, name: str = name
            ) -> Awaitable[Trace]:
                return conversations.self_train(question, student, low=low, high=high, rules=rules, stage=name)

            owed = await self.hold(name, recipe, stage, conversation)
            if not self.given.trains:
                continue
            rounds = self.given.records.rounds(name, recipe) if recipe else []
            if owed or not rounds:
                await self.updates(1 if owed else 0)
            elif rounds[-1].promoted:
                self.student = Checkpoint(version=rounds[-1].checkpoint, path=self.given.base.path)

    async def evaluate(self, label: str, checkpoint: Checkpoint | None) -> None:
        self.rehearsal.asked_for = SCORES
        self.rehearsal.weights = (checkpoint.version,) if checkpoint else ()
        sampling = decoding("greedy", self.given.settings.student.sampling)
        student, _ = self.agents()
        for heldout, questions in self.given.questions.heldout.items():
            stored = self._scores(checkpoint, heldout)
            owed = [q for q in questions if q.id not in stored or not is_scored(RESULT.validate_json(stored[q.id]), q)]
            await self.rehearse(
                owed, lambda question: examine(question, student, self.judge(), sampling=sampling, stage=EVALUATE)
            )

    async def compare_ends(self, last: Checkpoint | None) -> None:
        judge = self.judge()
        if not isinstance(judge, ModelJudge) or not self.given.settings.evaluate.pairwise:
            return
        self.rehearsal.asked_for = COMPARISONS
        for heldout, questions in self.given.questions.heldout.items():
            ends = [self._scores(checkpoint, heldout) for checkpoint in (self.given.base, last)]

            async def compared(question: Question, ends: Sequence[Mapping[str, str]] = ends) -> None:
                without, with_ = (
                    RESULT.validate_json(side[question.id]).attempt if question.id in side else self._attempt()
                    for side in ends
                )
                await compare(question, {"judge": judge}, without, with_)

            await self.rehearse(questions, compared)

    async def ask_again(self, last: Checkpoint | None) -> None:
        """A sample of the last student's replies is scored twice."""
        judge = self.judge()
        if not isinstance(judge, ModelJudge):
            return
        self.rehearsal.asked_for = SCORES
        for heldout, questions in self.given.questions.heldout.items():
            stored = self._scores(last, heldout)

            async def asked(question: Question, stored: Mapping[str, str] = stored) -> None:
                known = stored.get(question.id)
                attempt = RESULT.validate_json(known).attempt if known else self._attempt()
                await grade(question, attempt, Panel.of(judge), asking=2)

            await self.rehearse(questions[: self.given.settings.evaluate.repeat], asked)

    async def updates(self, number: int) -> None:
        """The gate asks the student in force, then each candidate."""
        self.rehearsal.asked_for = VERDICTS
        student, _ = self.agents()
        sampling = decoding("greedy", self.given.settings.student.sampling)

        async def asked(question: Question) -> None:
            await student.attempt(question, stage=GATE, sampling=sampling)

        if number:
            self.rehearsal.weights = (self.student.version,) if self.student else ()
            if self.student:  # whose replies are asked for once more only if they are not there
                await self.rehearse(self.given.questions.gate, asked)
            self.rehearsal.weights = ()
            await self.rehearse(self.given.questions.gate, asked, times=number)
            self.student = None

    # shared ----------------------------------------------------------------------------------------------------------

    async def hold(
        self,
        stage: str,
        recipe: str | None,
        take: TakeSettings,
        conversation: Callable[[Question], Awaitable[Trace]],
        weights: tuple[str, ...] | None = None,
    ) -> int:
        """Rehearse what the stage owes; how many questions that is."""
        end = None if take.questions is None else take.skip + take.questions
        questions = self.given.questions.train[take.skip : end]
        owed = self.given.records.owed(stage, recipe, questions) if recipe else questions
        self.rehearsal.asked_for = VERDICTS
        known = (self.student.version,) if self.student else ()
        self.rehearsal.weights = known if weights is None else weights
        await self.rehearse(owed, conversation)
        return len(owed)

    async def rehearse(
        self, questions: Sequence[Question], conversation: Callable[[Question], Awaitable[object]], times: int = 1
    ) -> None:
        count = min(len(questions), self.questions)
        if count < len(questions):
            self.spread = max(self.spread, len(questions))
        for i in range(count):
            self.rehearsal.begin(times * len(questions) / count)
            await conversation(questions[i * len(questions) // count])
            await asyncio.sleep(0)  # a run that is about to begin still hears Ctrl-C

    def agents(self) -> tuple[Student, Teacher]:
        settings = self.given.settings
        student = Student(self._voice("student", settings.student), in_one_chat=settings.refine.in_one_chat)
        return student, self.given.teacher or ModelTeacher(self._voice("teacher", settings.teacher))

    def judge(self) -> Judge:
        if self.given.judge is not None:
            return RehearsedVerifier(self.given.judge, self.rehearsal)
        return ModelJudge(self._voice("judge", self.given.settings.judge))

    def _voice(self, role: str, settings: ModelSettings) -> Voice:
        known = self.roles[role]
        speaker = RehearsedSpeaker(
            role,
            settings.identity,
            settings.deciding_options,
            self.rehearsal,
            known.counter.count,
            known.reply_tokens,
        )
        return Voice(speaker, self.given.templates, self.given.settings.domain, settings.sampling)

    def _attempt(self) -> Attempt:
        sampling = self.given.settings.student.sampling
        text = "word " * round(self.roles["student"].reply_tokens(EVALUATE, sampling.max_tokens))
        return Attempt(text=text, reasoning="", answer=text, model=IMAGINED, weights=IMAGINED)

    def _scores(self, checkpoint: Checkpoint | None, heldout: str) -> Mapping[str, str]:
        return self.given.records.scores(checkpoint.version, heldout, self.recipes.evaluate()) if checkpoint else {}

    def estimate(self) -> Estimate:
        expected = self.rehearsal.expected
        return Estimate(
            roles={name: _rounded(expected[name], self.given.prices[name]) for name in self.roles},
            assumptions=tuple(self._assumptions()),
        )

    def _assumptions(self) -> list[str]:
        settings = self.given.settings
        share = _wrong_share(self.given.records)
        source = "as in this run so far" if share is not None else "assumed"
        said = [f"{self.rehearsal.wrong_share:.0%} of the attempts are judged incorrect ({source})"]
        for name, role in self.roles.items():
            model: ModelSettings = getattr(settings, name)
            said.append(f"{name}: {role.described(model.sampling.max_tokens)}")
        if self.spread:
            said.append(f"rehearsed on {self.questions} questions a stage, of up to {self.spread:,}, and scaled up")
        if others := [*(m.name for m in settings.evaluate.models), *(j.identity for j in settings.evaluate.judges)]:
            asked = sum(map(len, self.given.questions.heldout.values()))
            said.append(
                f"not counted: {', '.join(others)} (evaluate.models, evaluate.judges) on {asked:,} held-out questions, "
                "and the judge on the models' replies"
            )
        unknown = [name for name in self.roles if self.given.prices[name] is None]
        said += [f"{name}.price is not given, so what its calls cost is not known" for name in unknown]
        return said


@dataclass(frozen=True, slots=True)
class _Role:
    """What is known about the lengths of a role's prompts and replies."""

    name: str
    counter: TokenCounter
    said: Mapping[str, float]
    """Stage -> mean tokens of a reply, where enough were seen; '' stands for all stages."""

    @classmethod
    def of(cls, name: str, given: Given) -> _Role:
        counter = given.counters.get(name) or TokenCounter()
        seen = given.records.newest_calls(name, OBSERVED)
        known = [call for call in seen if call.input_tokens and call.output_tokens is not None]
        if len(known) < ENOUGH:
            return cls(name, counter, {})
        characters = sum(_characters(call.request) for call in known)
        per_token = characters / sum(call.input_tokens or 0 for call in known)
        counter = TokenCounter(
            lambda text: len(text) / per_token, f"{per_token:.1f} characters a token, as in its last {len(known)} calls"
        )
        stages = {call.stage for call in known}
        by_stage = {stage: [call.output_tokens or 0 for call in known if call.stage == stage] for stage in stages}
        by_stage[""] = [call.output_tokens or 0 for call in known]
        return cls(name, counter, {s: sum(said) / len(said) for s, said in by_stage.items() if len(said) >= ENOUGH})

    def reply_tokens(self, stage: str, max_tokens: int) -> float:
        seen = self.said.get(stage, self.said.get(""))
        return max_tokens * REPLY_SHARE[self.name] if seen is None else min(seen, max_tokens)

    def described(self, max_tokens: int) -> str:
        if "" in self.said:
            return f"replies of {self.said['']:.0f} tokens on average, {self.counter.name}"
        return f"replies of {self.reply_tokens('', max_tokens):.0f} tokens (assumed), {self.counter.name}"


def _characters(request: str) -> int:
    return sum(len(message["content"]) for message in json.loads(request)["messages"])


def _wrong_share(records: Records) -> float | None:
    """Of the attempts that this run has judged in stage 2; None before there are enough."""
    totals = [total for stage in records.current_stages() if stage.name == REFINE
              for total in records.trace_totals(REFINE, stage.recipe)]  # fmt: skip
    right = sum(n for outcome, _, n in totals if outcome == Outcome.ACCEPTED)
    wrong = sum(
        (tries - (outcome == Outcome.ACCEPTED)) * n for outcome, tries, n in totals if outcome != Outcome.FAILED
    )
    return wrong / (right + wrong) if right + wrong >= ENOUGH else None


def _rounded(expected: Expected, price: Price | None) -> RoleEstimate:
    calls, reused, given, said = (
        round(value) for value in (expected.calls, expected.reused, expected.input_tokens, expected.output_tokens)
    )
    return RoleEstimate(
        calls=calls,
        reused=reused,
        input_tokens=given,
        output_tokens=said,
        usd=price.usd(Usage(input_tokens=given, output_tokens=said)) if price else (None if calls else 0.0),
    )
