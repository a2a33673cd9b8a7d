"""From settings to agents: the one place where a run's student, teacher, judge, panel and rivals are created.

A run, an estimate and a replay differ only in the speaker behind each agent: a recorded model, an imagined one, or the
run's own stored replies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from meteor_agents.evaluation.grading import Panel
from meteor_agents.evaluation.model_families import same_family_warnings
from meteor_agents.method.agents import ModelTeacher, Student, Teacher
from meteor_agents.method.judges import Judge, ModelJudge, VerifierJudge
from meteor_agents.method.reference_teacher import ReferenceTeacher
from meteor_agents.method.templates import Templates
from meteor_agents.method.voice import Voice
from meteor_agents.models import SamplingParams, Speaker
from meteor_agents.settings.evaluation import EVALUATED
from meteor_agents.settings.roles import REFERENCE, ModelSettings
from meteor_agents.settings.run import Settings


@dataclass(frozen=True, slots=True)
class RoleModel:
    """A model that a run calls. The calls of one role are counted together."""

    name: str
    """`student`, `teacher`, `judge`; a further judge or an evaluated model has its own name after the role's."""
    role: str
    settings: ModelSettings

    @property
    def setting(self) -> str:
        """Its section in the settings file, for messages: `teacher`, `evaluate.judges NAME`."""
        section = "evaluate.models" if self.role == EVALUATED else "evaluate.judges"
        return self.role if self.name == self.role else f"{section} {self.name.removeprefix(self.role).strip()}"


@dataclass(frozen=True, slots=True)
class Rival:
    """Another model that answers the held-out questions: from an API, a server or a folder."""

    name: str
    version: str
    """Its name in the store, which changes with anything that decides its replies."""
    student: Student
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class FreeJudges:
    """Judges that cost no model call: the run's own, and the verifier that checks the evaluation beside a model judge."""

    judge: Judge | None = None
    checker: VerifierJudge | None = None


@dataclass(frozen=True, slots=True)
class Cast:
    """The agents of a run."""

    student: Student
    teacher: Teacher
    judge: Judge
    panel: Panel
    """Everyone who grades held-out replies."""
    rivals: tuple[Rival, ...] = ()


def role_models(settings: Settings, *, evaluates: bool = True) -> dict[str, RoleModel]:
    """Every model that a run with these settings calls, by name.

    A reference teacher and a verifier are not models. Without `evaluates`, models that only grade or only are graded are
    left out.
    """
    models = [RoleModel("student", "student", settings.student)]
    if settings.teacher.backend != REFERENCE:
        models.append(RoleModel("teacher", "teacher", settings.teacher))
    if settings.judge.verifier is None:
        models.append(RoleModel("judge", "judge", settings.judge))
    if evaluates:
        models += [RoleModel(f"judge {given.identity}", "judge", given) for given in settings.evaluate.judges]
        models += [RoleModel(f"{EVALUATED} {given.name}", EVALUATED, given) for given in settings.evaluate.models]
    return {model.name: model for model in models}


def cast_agents(
    settings: Settings,
    templates: Templates,
    speaker: Callable[[RoleModel], Speaker],
    free: FreeJudges,
    *,
    evaluates: bool = True,
) -> Cast:
    """The agents that the settings name. `speaker` is asked once for each model, to speak as its role."""
    models = role_models(settings, evaluates=evaluates)

    def voice(name: str) -> Voice:
        model = models[name]
        return Voice(speaker(model), templates, settings.domain, model.settings.sampling)

    judge, grader = free.judge, free.judge
    if judge is None or grader is None:
        judges_voice = voice("judge")
        judge, grader = ModelJudge(judges_voice), ModelJudge(judges_voice, asks_anew=settings.retry_failed)
    return Cast(
        student=Student(voice("student"), in_one_chat=settings.refine.in_one_chat),
        teacher=ModelTeacher(voice("teacher")) if "teacher" in models else ReferenceTeacher(),
        judge=judge,
        panel=_panel(settings, grader, free.checker, voice if evaluates else None),
        rivals=_rivals(settings, voice) if evaluates else (),
    )


def related_models(settings: Settings) -> tuple[str, ...]:
    """Warnings about judges of the same model family as a role whose replies they judge."""
    judges: dict[str, ModelSettings] = {"judge": settings.judge}
    judges |= {f"evaluate.judges {judge.identity}": judge for judge in settings.evaluate.judges}
    others: dict[str, ModelSettings] = {"teacher": settings.teacher, "student": settings.student}
    others |= {f"evaluated model {rival.name}": rival for rival in settings.evaluate.models}
    return tuple(same_family_warnings(_model_names(judges), _model_names(others)))


def _panel(
    settings: Settings, judge: Judge, checker: VerifierJudge | None, voice: Callable[[str], Voice] | None
) -> Panel:
    further = settings.evaluate.judges if voice else []
    more = {
        given.identity: ModelJudge(voice(f"judge {given.identity}"), asks_anew=settings.retry_failed)
        for given in further
        if voice
    }
    panel = Panel.of(judge, settings.judge.identity, more)
    return replace(panel, verifier=checker) if checker is not None and panel.verifier is None else panel


def _rivals(settings: Settings, voice: Callable[[str], Voice]) -> tuple[Rival, ...]:
    return tuple(
        Rival(
            given.name,
            given.version,
            Student(voice(f"{EVALUATED} {given.name}")),
            given.greedy(settings.student.sampling),
        )
        for given in settings.evaluate.models
    )


def _model_names(models: Mapping[str, ModelSettings]) -> dict[str, str]:
    return {role: model.model for role, model in models.items() if model.model}
