"""A run's conversations held again out of its store: no model, no server, no training.

The method's own code runs on the run's own questions and templates, and every reply is the one that was received. What a
trace or a result says now is compared with what it said then. Replies are looked up under the weights that spoke in the
trace itself, so the updates between them need not be made again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from meteor_agents.calls.keys import call_key
from meteor_agents.data.near_duplicates import NearDuplicatesBySet
from meteor_agents.errors import ModelError, UnrecordedCallError
from meteor_agents.evaluation.comparison import compare, summarise_comparison
from meteor_agents.evaluation.grading import RESULT, Panel, Result, examine, fingerprint, summarise
from meteor_agents.messages import Attempt, Guideline, Lineage, Message, Question
from meteor_agents.method import conversations
from meteor_agents.method.agents import Judge, Student, Teacher
from meteor_agents.method.conversations import DISTILL, REFINE
from meteor_agents.method.strategies import open_strategy
from meteor_agents.models import ChatMessage, Completion, Occasion, SamplingParams
from meteor_agents.pipeline.checkpoints import LINEAGE
from meteor_agents.pipeline.measurement import OVERLAPS, PAIRWISE, RIVALS, is_held_out_set
from meteor_agents.pipeline.self_training import pair_rules
from meteor_agents.settings.decoding import decoding
from meteor_agents.settings.roles import ModelSettings
from meteor_agents.settings.run import Settings
from meteor_agents.store.store import Records
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import Checkpoint

FIGURES = "(figures)"
"""In the place of a question's id: the metrics of a whole evaluation."""
SHOWN = 60
"""Characters of a differing text that an explanation quotes."""


class Held(NamedTuple):
    """One conversation, held again."""

    stage: str
    question_id: str
    difference: str = ""
    """What is not as it was; empty where all is."""
    silent: bool = False
    """A model gave no reply then, so there is none now."""


class ReplayedSpeaker:
    """A role's model that says what it said in the run, under the same key. Raises `UnrecordedCallError` for the rest."""

    def __init__(self, role: str, settings: ModelSettings, records: Records) -> None:
        self._role = role
        self._identity = settings.identity
        self._options = settings.deciding_options
        self._records = records
        self._spoke: Sequence[str] = ()
        self._asked = 0

    def begin(self, weights: Sequence[str]) -> None:
        """A conversation begins in which these weights spoke, call by call; none for a model that no one changes."""
        self._spoke, self._asked = weights, 0

    async def complete(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion:
        said = [(message.role, message.content) for message in messages]
        key = call_key(self._role, self._identity, said, sampling, occasion.tries, occasion.again, self._options)
        weights = (*self._spoke[self._asked : self._asked + 1], *self._spoke, self._identity)
        self._asked += 1
        stored = self._records.find_call(key, weights, sampling.max_tokens)
        if stored is None:
            raise UnrecordedCallError(self._why_not(messages, sampling, occasion))
        return stored

    def _why_not(self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion) -> str:
        where = f"question {occasion.question_id!r}, {occasion.stage}, try {occasion.tries}"
        rows = self._records.read(
            "SELECT request, tries, weights FROM calls WHERE role = ? AND stage = ? AND question_id = ?"
            " ORDER BY tries = ? DESC, rowid DESC LIMIT 1",
            self._role, occasion.stage, occasion.question_id, occasion.tries,
        )  # fmt: skip
        if not rows:
            return f"{self._role}: no reply is recorded ({where}), nor any other call about this question in this stage"
        request, tries, weights = rows[0]
        recorded = json.loads(request)
        now = [message.model_dump() for message in messages]
        if recorded["messages"] != now:
            what = _first_difference(recorded["messages"], now)
        elif changed := _changed(recorded["sampling"], sampling.model_dump(mode="json")):
            what = f"sampling: {changed}"
        elif tries != occasion.tries:
            what = f"the call recorded is that of try {tries}"
        else:
            what = f"it was asked of the model or weights {weights!r}, or with other options of its backend"
        return f"{self._role}: no reply is recorded ({where}); {what}"


def _first_difference(recorded: Sequence[Mapping[str, str]], now: Sequence[Mapping[str, str]]) -> str:
    for number, (then, here) in enumerate(zip_longest(recorded, now, fillvalue={"role": "none", "content": ""}), 1):
        if then != here:
            at = _fork(then["content"], here["content"])
            return (
                f"message {number} ({here['role']}) of the prompt differs at character {at}: "
                f"was {_shown(then['content'][at:])}, is {_shown(here['content'][at:])}"
            )
    return "the prompts are equal"


def _fork(first: str, second: str) -> int:
    """Where two texts begin to differ."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return repr(text[:SHOWN] + ("…" if len(text) > SHOWN else "")) if isinstance(value, str) else text


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The fields that differ, as `name was x, is y`."""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return ", ".join(f"{name} was {_shown(then.get(name))}, is {_shown(now.get(name))}" for name in names)


class Replay:
    """The conversations of one run, each of which can be held again.

    `heldout` holds the questions of the held-out sets: set -> id -> question.
    """

    def __init__(
        self,
        settings: Settings,
        records: Records,
        student: Student,
        teacher: Teacher,
        judge: Judge,
        student_speaker: ReplayedSpeaker,
        panel: Panel,
        heldout: Mapping[str, Mapping[str, Question]],
        base: Checkpoint,
    ) -> None:
        self._settings = settings
        self._records = records
        self._student = student
        self._teacher = teacher
        self._judge = judge
        self._speaker = student_speaker
        self._panel = panel
        self._heldout = heldout
        self._base = base

    async def hold(self, trace: Trace) -> Held:
        """The trace's conversation again."""
        self._speaker.begin([m.weights for m in trace.messages if isinstance(m, Guideline | Attempt)])
        try:
            again = await self._conversation(trace.stage, trace.question)
        except UnrecordedCallError as missing:
            silent = trace.outcome is Outcome.FAILED and not trace.messages
            return Held(trace.stage, trace.question.id, "" if silent else str(missing), silent)
        except ModelError as error:
            again = Trace(
                stage=trace.stage, question=trace.question, messages=(), outcome=Outcome.FAILED, error=str(error)
            )
        return Held(trace.stage, trace.question.id, _difference(trace, again))

    async def _conversation(self, stage: str, question: Question) -> Trace:
        settings = self._settings
        if stage == DISTILL:
            return await conversations.distill(
                question, self._student, self._teacher, guideline=settings.distill.guideline
            )
        if stage == REFINE:
            return await conversations.refine(
                question,
                self._student,
                self._judge,
                iterations=settings.refine.iterations,
                guide_by=self._teacher if settings.refine.guide_from == "teacher" else None,
            )
        low, high = (
            open_strategy(given, settings.student.sampling, self._judge, self._base)
            for given in (settings.self_train.low, settings.self_train.high)
        )
        return await conversations.self_train(
            question,
            self._student,
            low=low,
            high=high,
            rules=pair_rules(settings, self._student, self._judge),
            parameters=None,
            stage=stage,
        )

    async def evaluations(self, only: str | None = None) -> list[Held]:
        """The newest evaluations of the run's own checkpoints again, of one question or of all, and their figures."""
        held: list[Held] = []
        for evaluation in _newest_evaluations(self._records):
            if is_held_out_set(evaluation.heldout) and evaluation.label in LINEAGE:
                held += [found async for found in self._evaluate(evaluation, only)]
            elif only is None and PAIRWISE in evaluation.heldout:
                held.append(await self._compare(evaluation))
        return held

    async def _evaluate(self, evaluation: _Evaluation, only: str | None) -> AsyncIterator[Held]:
        stage = f"evaluate {evaluation.label}: {evaluation.heldout}"
        results: dict[str, Result] = {}
        for id_, stored in self._records.scores(evaluation.checkpoint, evaluation.heldout, evaluation.recipe).items():
            if only not in (None, id_):
                continue
            recorded: Result = RESULT.validate_json(stored)
            question = self._heldout.get(evaluation.heldout, {}).get(id_)
            if question is None or fingerprint(question) != recorded.asked:
                yield Held(stage, id_, "the question, as it was asked, is not among the run's inputs")
                continue
            again, held = await self._examine(stage, question, recorded)
            if again is not None:
                results[id_] = again
            yield held
        if only is None and len(results) + evaluation.metrics["failed"] == evaluation.metrics["questions"]:
            metrics = summarise(results, asked=evaluation.metrics["questions"], near_training=self._near(evaluation))
            found = metrics.model_dump(mode="json")
            yield Held(stage, FIGURES, _changed(_rounded(evaluation.metrics), _rounded(found)))

    def _near(self, evaluation: _Evaluation) -> Collection[str]:
        """Questions of the held-out set that nearly repeat one of the training set, as the run found them."""
        stored = self._records.meta(OVERLAPS)
        return NearDuplicatesBySet.model_validate(stored).sets[evaluation.heldout].ids if stored else ()

    async def _examine(self, stage: str, question: Question, recorded: Result) -> tuple[Result | None, Held]:
        self._speaker.begin([recorded.attempt.weights])
        sampling = decoding("greedy", self._settings.student.sampling)
        try:
            again = await examine(question, self._student, self._panel, sampling=sampling)
        except ModelError as error:
            return None, Held(stage, question.id, str(error))
        return again, Held(stage, question.id, _unlike(recorded, again))

    async def _compare(self, evaluation: _Evaluation) -> Held:
        """The last checkpoint against another model again, as one: its figures."""
        heldout, before = evaluation.heldout.split(PAIRWISE)
        stage = f"evaluate pairwise: {heldout} against {before}"
        recipe, versions = evaluation.recipe, {**self._records.meta(RIVALS, {}), **self._records.lineage()}
        ends = [self._records.scores(v, heldout, recipe) for v in (versions.get(before, ""), evaluation.checkpoint)]
        found, id_ = [], FIGURES
        try:
            for id_, question in self._heldout.get(heldout, {}).items():
                if all(id_ in scores for scores in ends):
                    without, with_ = (RESULT.validate_json(scores[id_]).attempt for scores in ends)
                    found.append(await compare(question, self._panel.judges, without, with_))
        except ModelError as error:
            return Held(stage, id_, str(error))
        shares = summarise_comparison(found).model_dump(mode="json")
        return Held(stage, FIGURES, _changed(_rounded(evaluation.metrics), _rounded(shares)))


class _Evaluation(NamedTuple):
    checkpoint: str
    heldout: str
    recipe: str
    label: str
    metrics: dict[str, Any]


def _newest_evaluations(records: Records) -> Iterable[_Evaluation]:
    """One a checkpoint and held-out set, in the order they were made."""
    rows = records.read("SELECT checkpoint, heldout, recipe, label, metrics FROM evaluations ORDER BY position")
    newest = {
        (checkpoint, heldout): _Evaluation(checkpoint, heldout, recipe, label, json.loads(metrics))
        for checkpoint, heldout, recipe, label, metrics in rows
    }
    return newest.values()


def _difference(then: Trace, now: Trace) -> str:
    """What the trace says otherwise; empty where it says the same."""
    if then.outcome is not now.outcome:
        return f"was {then.outcome}, is {now.outcome}" + (f": {now.error}" if now.error else "")
    for number, (before, after) in enumerate(zip_longest(then.messages, now.messages), 1):
        if before is None or after is None:
            return f"had {len(then.messages)} messages, has {len(now.messages)}"
        if difference := _unlike(before, after):
            return f"message {number} ({after.kind}): {difference}"
    return _changed({"error": then.error}, {"error": now.error})


def _unlike(then: Message, now: Message) -> str:
    if isinstance(then, Lineage) and isinstance(now, Lineage):
        then, now = (_without_flops(lineage) for lineage in (then, now))
    return "" if then == now else _changed(then.model_dump(mode="json"), now.model_dump(mode="json"))


def _without_flops(lineage: Lineage) -> Lineage:
    """An estimate from the size of the model's files, which need not be here."""
    sides = {name: getattr(lineage, name).model_copy(update={"flops": None}) for name in ("low", "high")}
    return lineage.model_copy(update=sides)


def _rounded(value: Any) -> Any:
    """Sums depend on the order of their terms in the last digits."""
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return value


def totals(held: Iterable[Held]) -> Iterator[tuple[str, int, int, int]]:
    """(stage, conversations, those that differ, those that had no reply), in the order of the stages."""
    counts: dict[str, Counter[str]] = {}
    for one in held:
        count = counts.setdefault(one.stage, Counter())
        if one.question_id != FIGURES:
            count.update(all=1, differ=bool(one.difference), silent=one.silent)
    return ((stage, count["all"], count["differ"], count["silent"]) for stage, count in counts.items())
