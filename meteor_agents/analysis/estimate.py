"""What a command is going to cost: calls, tokens and money by role, before anything is spent.

Every stage's conversations are rehearsed (`rehearsal`) on questions spread over the data, and scaled up. What a run
directory holds is honoured: settled traces are not held again, stored replies are not asked for again.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from meteor_agents.analysis.rehearsal import (
    COMPARISONS,
    IMAGINED,
    SCORES,
    VERDICTS,
    Expected,
    Rehearsal,
    RehearsedSpeaker,
    RehearsedVerifier,
)
from meteor_agents.calls.recorded import Price
from meteor_agents.evaluation.comparison import compare
from meteor_agents.evaluation.grading import EVALUATE, RESULT, Panel, examine, grade, is_scored
from meteor_agents.evaluation.human_labels import Label
from meteor_agents.messages import Attempt, Question
from meteor_agents.method import conversations
from meteor_agents.method.agents import Judge, ModelJudge, ModelTeacher, Student, Teacher, Voice
from meteor_agents.method.conversations import DISTILL, REFINE, SELF_TRAIN
from meteor_agents.method.preference_pairs import PairRules
from meteor_agents.method.strategies import open_strategy
from meteor_agents.method.templates import Templates
from meteor_agents.models import SamplingParams, TokenCounter, Usage
from meteor_agents.pipeline.checkpoints import BASE, LINEAGE
from meteor_agents.pipeline.gate import GATE
from meteor_agents.pipeline.measurement import finding, labelled
from meteor_agents.pipeline.pipeline import QuestionSets
from meteor_agents.pipeline.recipes import FINETUNE, Recipes
from meteor_agents.pipeline.self_training import pair_rules, stage_of
from meteor_agents.settings.decoding import decoding
from meteor_agents.settings.evaluation import EVALUATED
from meteor_agents.settings.roles import ROLES, ModelSettings
from meteor_agents.settings.run import Settings
from meteor_agents.settings.stages import TakeSettings
from meteor_agents.store.store import Records
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import Checkpoint

QUESTIONS = 256
"""Rehearsed of a stage; more of them are scaled up from as many, spread evenly."""
WRONG_SHARE = 0.5
"""Assumed share of attempts that are judged incorrect, before a run has shown its own."""
REPLY_SHARE = {"student": 1 / 2, "teacher": 1 / 2, "judge": 1 / 6, EVALUATED: 1 / 2}
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
        return added(self.roles.values()).usd

    @property
    def tokens(self) -> int:
        return sum(role.input_tokens + role.output_tokens for role in self.roles.values())


@dataclass(frozen=True, slots=True)
class Asked:
    """A model that a run asks: the calls of its role are counted together."""

    role: str
    settings: ModelSettings


def models_of(settings: Settings) -> dict[str, Asked]:
    """By role, those that only evaluate or are only evaluated by role and name."""
    found = {role: Asked(role, getattr(settings, role)) for role in ROLES}
    found |= {_extra("judge", judge.identity): Asked("judge", judge) for judge in settings.evaluate.judges}
    found |= {_extra(EVALUATED, rival.name): Asked(EVALUATED, rival) for rival in settings.evaluate.models}
    return found


def _extra(role: str, name: str) -> str:
    return f"{role} {name}"




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
    """By the names of `models_of`."""
    counters: Mapping[str, TokenCounter]
    """By the names of `models_of`; characters where there is none."""
    labels: Sequence[Label] = ()
    """What people found, which the judges are asked about too."""


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
    asked: dict[str, Asked] = field(init=False)
    known: dict[str, _Known] = field(init=False)
    spread: int = 0
    """Questions of the largest stage that was scaled up."""

    def __post_init__(self) -> None:
        given = self.given
        self.student = given.base
        self.recipes = Recipes(given.settings, given.templates.hashes())
        seen = _wrong_share(given.records)
        self.rehearsal = Rehearsal(given.records, WRONG_SHARE if seen is None else seen)
        free = {"teacher": given.teacher, "judge": given.judge}
        asked = models_of(given.settings)
        self.asked = {name: model for name, model in asked.items() if free.get(name) is None}
        self.known = {name: _Known.of(name, model.role, given) for name, model in self.asked.items()}

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
        await self.conclude(self.student)

    async def refine_alone(self) -> None:
        self.student = self._latest(REFINE)
        await self.refine()

    async def self_train_alone(self) -> None:
        self.student = self._latest(SELF_TRAIN)
        await self.self_train()

    async def measure(self) -> None:
        for label, checkpoint in self.given.lineage.items():
            await self.evaluate(label, checkpoint)
        await self.conclude(list(self.given.lineage.values())[-1])

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
        sampling = decoding("greedy", self.given.settings.student.sampling)
        student, _ = self.agents()
        await self.examine(checkpoint.version if checkpoint else None, student, sampling)

    async def examine(self, version: str | None, student: Student, sampling: SamplingParams) -> None:
        """`version` None: the replies of weights that are not known yet."""
        self.rehearsal.asked_for = SCORES
        self.rehearsal.weights = () if version is None else (version,)
        panel = self.panel()
        for heldout, questions in self.given.questions.heldout.items():
            stored = self._scores(version, heldout)
            owed = [q for q in questions if q.id not in stored or not is_scored(RESULT.validate_json(stored[q.id]), q)]
            await self.rehearse(owed, lambda question: examine(question, student, panel, sampling=sampling))

    async def conclude(self, last: Checkpoint | None) -> None:
        """The other models, and then all that is asked about replies that are scored."""
        version = last.version if last else None
        for rival in self.given.settings.evaluate.models:
            speaks = Student(self._voice(_extra(EVALUATED, rival.name)))
            await self.examine(rival.version, speaks, rival.greedy(self.given.settings.student.sampling))
        if self.given.settings.evaluate.pairwise and self.panel().judges:
            if last != self.given.base:
                await self.compare(self.given.base.version, version)
            for rival in self.given.settings.evaluate.models:
                await self.compare(rival.version, version)
        await self.ask_again(version)
        await self.ask_about_labelled(version)

    async def compare(self, before: str, after: str | None) -> None:
        self.rehearsal.asked_for = COMPARISONS
        judges = self.panel().judges
        for heldout, questions in self.given.questions.heldout.items():
            sides = [self._scores(version, heldout) for version in (before, after)]

            async def compared(question: Question, sides: Sequence[Mapping[str, str]] = sides) -> None:
                without, with_ = (
                    RESULT.validate_json(side[question.id]).attempt if question.id in side else self._attempt()
                    for side in sides
                )
                await compare(question, judges, without, with_)

            await self.rehearse(questions, compared)

    async def ask_again(self, version: str | None) -> None:
        """A sample of the last student's replies is scored twice."""
        self.rehearsal.asked_for = SCORES
        judges = Panel(judges=self.panel().judges)
        if not judges.judges:
            return
        for heldout, questions in self.given.questions.heldout.items():
            stored = self._scores(version, heldout)

            async def asked(question: Question, stored: Mapping[str, str] = stored) -> None:
                known = stored.get(question.id)
                attempt = RESULT.validate_json(known).attempt if known else self._attempt()
                await grade(question, attempt, judges, asking=2)

            await self.rehearse(questions[: self.given.settings.evaluate.repeat], asked)

    async def ask_about_labelled(self, version: str | None) -> None:
        """Replies that people have labelled go to every judge."""
        panel = self.panel()
        judges = [*panel.judges.values(), *([panel.verifier] if panel.verifier else [])]
        self.rehearsal.asked_for = VERDICTS
        labels = defaultdict(list)
        for label in self.given.labels:
            labels[label.id].append(label)
        for heldout, questions in self.given.questions.heldout.items():
            stored = self._scores(version, heldout)

            async def asked(question: Question, stored: Mapping[str, str] = stored) -> None:
                known = stored.get(question.id)
                last = RESULT.validate_json(known).attempt if known else self._attempt()
                for label in labels[question.id]:
                    for judge in judges:
                        await finding(question, labelled(label, last) or last, judge, label)

            await self.rehearse([question for question in questions if question.id in labels], asked)

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
        student = Student(self._voice("student"), in_one_chat=settings.refine.in_one_chat)
        return student, self.given.teacher or ModelTeacher(self._voice("teacher"))

    def judge(self) -> Judge:
        if self.given.judge is not None:
            return RehearsedVerifier(self.given.judge, self.rehearsal)
        return ModelJudge(self._voice("judge"))

    def panel(self) -> Panel:
        settings = self.given.settings
        more = {judge.identity: ModelJudge(self._voice(_extra("judge", judge.identity)))
                for judge in settings.evaluate.judges}  # fmt: skip
        return Panel.of(self.judge(), settings.judge.identity, more)

    def _voice(self, name: str) -> Voice:
        asked, known = self.asked[name], self.known[name]
        speaker = RehearsedSpeaker(
            asked.role,
            asked.settings.identity,
            asked.settings.deciding_options,
            self.rehearsal,
            self.rehearsal.expected[name],
            known.counter.count,
            known.reply_tokens,
        )
        return Voice(speaker, self.given.templates, self.given.settings.domain, asked.settings.sampling)

    def _attempt(self) -> Attempt:
        sampling = self.given.settings.student.sampling
        text = "word " * round(self.known["student"].reply_tokens(EVALUATE, sampling.max_tokens))
        return Attempt(text=text, reasoning="", answer=text, model=IMAGINED, weights=IMAGINED)

    def _scores(self, version: str | None, heldout: str) -> Mapping[str, str]:
        return self.given.records.scores(version, heldout, self.recipes.evaluate()) if version else {}

    def estimate(self) -> Estimate:
        found = {name: _rounded(self.rehearsal.expected[name], self.given.prices[name]) for name in self.asked}
        roles = dict.fromkeys(model.role for model in self.asked.values())
        return Estimate(
            roles={
                role: added(found[name] for name, model in self.asked.items() if model.role == role) for role in roles
            },
            assumptions=tuple(self._assumptions()),
        )

    def _assumptions(self) -> list[str]:
        share = _wrong_share(self.given.records)
        source = "as in this run so far" if share is not None else "assumed"
        said = [f"{self.rehearsal.wrong_share:.0%} of the attempts are judged incorrect ({source})"]
        for name, known in self.known.items():
            said.append(f"{name}: {known.described(self.asked[name].settings.sampling.max_tokens)}")
        if self.spread:
            said.append(f"rehearsed on {self.questions} questions a stage, of up to {self.spread:,}, and scaled up")
        unknown = [name for name in self.asked if self.given.prices[name] is None]
        said += [f"{name}: no price is given, so what its calls cost is not known" for name in unknown]
        return said


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known about the lengths of a model's prompts and replies, from what its role has said so far."""

    role: str
    counter: TokenCounter
    said: Mapping[str, float]
    """Stage -> mean tokens of a reply, where enough were seen; '' stands for all stages."""

    @classmethod
    def of(cls, name: str, role: str, given: Given) -> _Known:
        counter = given.counters.get(name) or TokenCounter()
        seen = given.records.newest_calls(role, OBSERVED)
        known = [call for call in seen if call.input_tokens and call.output_tokens is not None]
        if len(known) < ENOUGH:
            return cls(role, counter, {})
        characters = sum(_characters(call.request) for call in known)
        per_token = characters / sum(call.input_tokens or 0 for call in known)
        counter = TokenCounter(
            lambda text: len(text) / per_token, f"{per_token:.1f} characters a token, as in its last {len(known)} calls"
        )
        stages = {call.stage for call in known}
        by_stage = {stage: [call.output_tokens or 0 for call in known if call.stage == stage] for stage in stages}
        by_stage[""] = [call.output_tokens or 0 for call in known]
        return cls(role, counter, {s: sum(said) / len(said) for s, said in by_stage.items() if len(said) >= ENOUGH})

    def reply_tokens(self, stage: str, max_tokens: int) -> float:
        seen = self.said.get(stage, self.said.get(""))
        return max_tokens * REPLY_SHARE[self.role] if seen is None else min(seen, max_tokens)

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


def added(roles: Iterable[RoleEstimate]) -> RoleEstimate:
    """The sum; what one of them costs without a known price is not known of all."""
    each = list(roles)
    usd = [role.usd for role in each]
    return RoleEstimate(
        calls=sum(role.calls for role in each),
        reused=sum(role.reused for role in each),
        input_tokens=sum(role.input_tokens for role in each),
        output_tokens=sum(role.output_tokens for role in each),
        usd=None if None in usd else sum(cost for cost in usd if cost is not None),
    )


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
