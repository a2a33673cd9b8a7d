"""Who evaluates and who is evaluated besides the run's own checkpoints (`evaluate` of the settings), as objects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from meteor_agents.evaluation.grading import Panel
from meteor_agents.evaluation.human_labels import Label
from meteor_agents.evaluation.model_families import kinships
from meteor_agents.method.agents import Judge, ModelJudge, Student, VerifierJudge, Voice
from meteor_agents.pipeline.measurement import Evaluators, Rival
from meteor_agents.settings.evaluation import EVALUATED
from meteor_agents.settings.roles import ModelSettings
from meteor_agents.settings.run import Settings
from meteor_agents.verifiers import open_verifier


async def open_evaluators(
    settings: Settings,
    base: Path,
    judge: Judge,
    labels: Sequence[Label],
    opened: Callable[[str, ModelSettings], Awaitable[Voice]],
    closing: AsyncExitStack,
) -> Evaluators:
    """`opened` opens a role's model with its limits and its memory. Raises `MeteorError` for what cannot be opened."""
    evaluation = settings.evaluate
    more = {given.identity: ModelJudge(await opened("judge", given)) for given in evaluation.judges}
    panel = Panel.of(judge, settings.judge.identity, more)
    if evaluation.verifier is not None and panel.verifier is None:
        verifier = open_verifier(evaluation.verifier.verifier, evaluation.verifier.options, base)
        closing.callback(verifier.close)
        panel = replace(panel, verifier=VerifierJudge(verifier))
    rivals = []
    for given in evaluation.models:
        student = Student(await opened(EVALUATED, given))
        rivals.append(Rival(given.name, given.version, student, given.greedy(settings.student.sampling)))
    return Evaluators(panel, rivals, labels, _kinships(settings))


def _kinships(settings: Settings) -> tuple[str, ...]:
    """Warnings about judges that are of one family with a role whose words they judge."""
    judges: dict[str, ModelSettings] = {"judge": settings.judge}
    judges |= {f"evaluate.judges {judge.identity}": judge for judge in settings.evaluate.judges}
    others: dict[str, ModelSettings] = {"teacher": settings.teacher, "student": settings.student}
    others |= {f"evaluated model {rival.name}": rival for rival in settings.evaluate.models}
    return tuple(kinships(_named(judges), _named(others)))


def _named(models: dict[str, ModelSettings]) -> dict[str, str]:
    return {role: model.model for role, model in models.items() if model.model}
