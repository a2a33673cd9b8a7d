"""What `meteor check` tries with one role's model: real prompts, a real reply, its context, verdicts and weights."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from meteor_agents.abilities import LoadsWeights, ModelFacts, TellsFacts, innermost
from meteor_agents.assembly.role_models import ModelOpener, make_ready
from meteor_agents.backends.base_model import base_checkpoint, trains_here
from meteor_agents.cli.commands.prompts import example_variables
from meteor_agents.errors import ModelError, SettingsError
from meteor_agents.events import Event, Note
from meteor_agents.messages import Attempt, Question, Status
from meteor_agents.method.decoding.opening import check_strategies
from meteor_agents.method.judges import ModelJudge
from meteor_agents.method.templates import Templates
from meteor_agents.method.voice import Voice
from meteor_agents.models import ChatMessage, ChatModel, Completion, Occasion, SamplingParams
from meteor_agents.settings.evaluation import EVALUATED
from meteor_agents.settings.roles import ModelSettings
from meteor_agents.settings.run import Settings

SAMPLE = 200
"""How many questions are rendered to find the longest prompt."""
SPOKEN_TOKENS = 32
"""Length of the reply that is timed, in tokens."""
PROMPTS = {
    "student": ("student_attempt", "student_guideline"),
    "teacher": ("teacher_answer",),
    "judge": ("judge_verdict", "judge_score"),
    EVALUATED: ("student_attempt",),
}
"""Role -> the prompts that its longest is looked for among."""


class Finding(NamedTuple):
    """One thing that was tried."""

    what: str
    found: str
    advice: str = ""
    """What to do about it; empty when there is nothing to do."""


class _Notes:
    """An observer that keeps what backends say about themselves."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on_event(self, event: Event) -> None:
        """Keep the event if it is a note."""
        if isinstance(event, Note):
            self.said.append(event.text)


class _Asked:
    """A model as an agent's speaker, without a store."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model

    async def complete(
        self, messages: Sequence[ChatMessage], sampling: SamplingParams, occasion: Occasion
    ) -> Completion:
        return await self._model.complete(messages, sampling)


class Candidate(NamedTuple):
    """A model that the run would ask, and in which role."""

    name: str
    """The setting that describes it, such as `judge`."""
    role: str
    settings: ModelSettings


async def look_at(
    candidate: Candidate,
    settings: Settings,
    templates: Templates,
    questions: Sequence[Question],
    *,
    trains: bool = True,
) -> list[Finding]:
    """Open the model, ask it, and return what was found. Without `trains`, the student's weights are not tried.

    Raises `MeteorError` when the model cannot be opened or does not answer.
    """
    name, role, given = candidate
    once = given.model_copy(update={"limits": given.limits.model_copy(update={"retries": 0})})
    notes = _Notes()
    async with AsyncExitStack() as closing:
        model = ModelOpener(notes).open(role, once)
        closing.push_async_callback(model.aclose)
        await make_ready(model)
        bare = innermost(model)
        facts = await bare.facts() if isinstance(bare, TellsFacts) else ModelFacts()
        prompt = _longest(role, settings, templates, questions)
        reply, findings = await _spoken(role, model, given, prompt, facts)
        findings.append(_context(name, given, settings, prompt, reply, facts))
        if role == "judge":
            findings.append(await _verdict(model, candidate, settings, templates, questions))
        if role == "student":
            findings += [finding async for finding in _as_student(settings, bare, trains)]
    return [*findings, *(Finding("note", said) for said in dict.fromkeys(notes.said))]


def _longest(
    role: str, settings: Settings, templates: Templates, questions: Sequence[Question]
) -> tuple[ChatMessage, ...]:
    """The longest prompt of the role over a sample of the questions."""
    names = [name for name in PROMPTS[role] if name != "student_guideline" or settings.distill.guideline]
    prompts = (
        templates.render(name, **example_variables(name, settings.domain, question))
        for name in names
        for question in questions[:SAMPLE]
    )
    return max(prompts, key=lambda prompt: sum(len(message.content) for message in prompt))


async def _spoken(
    role: str, model: ChatModel, given: ModelSettings, prompt: Sequence[ChatMessage], facts: ModelFacts
) -> tuple[Completion, list[Finding]]:
    sampling = given.sampling.model_copy(update={"max_tokens": min(SPOKEN_TOKENS, given.sampling.max_tokens)})
    started = time.monotonic()
    try:
        reply = await model.complete(prompt, sampling)
    except ModelError as error:
        raise type(error)(f"{given.identity} gave no reply to the run's longest prompt: {error}") from error
    seconds = max(time.monotonic() - started, 1e-6)
    found = f"{reply.model} answers through {given.backend} in {seconds:.2f} s"
    if said := reply.usage.output_tokens:
        found += f", {said / seconds:,.1f} tokens/s for {said} tokens after the longest prompt"
    else:
        found += "; the server does not count its tokens: budgets and prices stay unknown"
    findings = [Finding("answers", found)]
    if facts.served and given.identity not in facts.served:
        findings.append(Finding("name", f"is served as {', '.join(facts.served[:3])}; {given.identity} was accepted too"))
    if role != "judge" and not (reply.text.strip() or reply.reasoning):
        findings.append(
            Finding("reply", "is empty", f"send {given.identity} a message by hand; a wrong chat template causes this")
        )
    return reply, findings


def _context(
    name: str,
    given: ModelSettings,
    settings: Settings,
    prompt: Sequence[ChatMessage],
    reply: Completion,
    facts: ModelFacts,
) -> Finding:
    """Whether the longest prompt and a whole reply fit. A prompt may quote another whole reply (an attempt, a guideline)."""
    counted = reply.usage.input_tokens
    tokens = counted or sum(len(message.content) for message in prompt) // 4
    said = given.sampling.max_tokens
    found = f"{'' if counted else 'about '}{tokens:,} tokens the longest prompt, {said:,} the reply (max_tokens)"
    if facts.context is None:
        return Finding("context", f"{found}; the model does not say how much it reads")
    found += f"; it reads {facts.context:,}"
    if tokens + said > facts.context:
        room = facts.context - tokens
        advice = (
            f"set {name}.sampling.max_tokens to at most {room:,}, or serve the model with a longer context"
            if room > 0
            else "shorten the questions or the prompt, or serve the model with a longer context"
        )
        return Finding("context", found, advice)
    quoted = settings.student.sampling.max_tokens
    if tokens + quoted + said > facts.context:
        found += f"; too short when the prompt quotes a student's reply of {quoted:,} tokens"
    return Finding("context", found)


async def _verdict(
    model: ChatModel, candidate: Candidate, settings: Settings, templates: Templates, questions: Sequence[Question]
) -> Finding:
    """Ask for a real verdict, as the run does."""
    judge = ModelJudge(Voice(_Asked(model), templates, settings.domain, candidate.settings.sampling))
    answer = questions[0].reference or "I do not know."
    attempt = Attempt(text=answer, reasoning="", answer=answer, model="check", weights="check")
    started = time.monotonic()
    verdict = await judge.evaluate(questions[0], attempt, stage="check")
    seconds = time.monotonic() - started
    if verdict.status is Status.ERROR:
        return Finding(
            "verdicts",
            f"cannot be read: {verdict.explanation[:200]}",
            "use a stronger judge, raise its sampling.max_tokens, or use a verifier: judge: {verifier: exact}",
        )
    return Finding("verdicts", f"can be read ({verdict.status} on a reference, in {seconds:.2f} s)")


async def _as_student(settings: Settings, student: object, trains: bool) -> AsyncIterator[Finding]:
    try:
        check_strategies(settings, student)
    except SettingsError as error:
        yield Finding("decoding", "this backend does not support the decoding of stage 3", str(error))
    if not trains:
        return
    if not trains_here(settings.student):
        yield Finding("weights", "cannot be updated: this backend has no folder of weights here, so use --no-train")
        return
    base = base_checkpoint(settings.student)
    if base.path.is_dir():
        for finding in _template(base.path):
            yield finding
    if isinstance(student, LoadsWeights) and base.path.is_dir():
        started = time.monotonic()
        try:
            await student.load_weights(base.path, base.version)
        except ModelError as error:
            yield Finding("weights", f"cannot be replaced: {error}", "without this, updates cannot be served")
        else:
            yield Finding("weights", f"can be replaced: its own loaded in {time.monotonic() - started:.2f} s")


def _template(folder: Path) -> Iterator[Finding]:
    """How the chat template renders messages. Yields nothing when transformers is not installed."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        return
    from meteor_agents.backends.local.chat_template import end_of_turn_id, prompt_text

    advice = "use an instruction-tuned model whose tokenizer has a chat template for system and user messages"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        text = prompt_text(
            tokenizer, [ChatMessage(role="system", content="S#"), ChatMessage(role="user", content="U#")]
        )
        end = tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer))
    except Exception as error:  # a template is a program of the model's own
        yield Finding("template", f"cannot render a prompt: {error}", advice)
        return
    if "S#" not in text or "U#" not in text:
        yield Finding("template", "drops the system message", advice)
    else:
        yield Finding("template", f"renders system and user messages; a turn ends with {end}")
