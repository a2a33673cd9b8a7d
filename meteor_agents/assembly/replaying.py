"""From a run directory to a replay: its settings, prompts, questions and verifier, and agents that repeat replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from meteor_agents.analysis.replay import Replay, ReplaySession
from meteor_agents.analysis.replayed_speaker import ReplayedSpeaker
from meteor_agents.assembly.opening import open_free_judges, open_templates, open_verifier_judge
from meteor_agents.assembly.question_sets import open_questions
from meteor_agents.backends.base_model import base_checkpoint
from meteor_agents.errors import QuestionsError, SettingsError, UsageError
from meteor_agents.events import Observers
from meteor_agents.messages import Question
from meteor_agents.method.templates import Templates
from meteor_agents.pipeline.cast import FreeJudges, cast_agents, role_models
from meteor_agents.settings.run import Settings
from meteor_agents.store.inputs import Inputs
from meteor_agents.store.records import Records


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run directory to replay, with its own settings or edited ones."""

    folder: Path
    settings: Settings
    records: Records
    other_prompts: bool = False
    """Use `prompts.dir` of the settings, even if the run kept its own prompts."""


def open_replay(run: Recorded, closing: ExitStack) -> Replay:
    """The replay of a run. Raises `UsageError`, `SettingsError` or `QuestionsError` if the directory lacks what it needs."""
    settings, records, inputs = run.settings, run.records, Inputs(run.folder)
    speakers = {name: ReplayedSpeaker(model, records) for name, model in role_models(settings).items()}
    free = _free_judges(inputs, run, closing)
    cast = cast_agents(settings, _templates(inputs, run), lambda model: speakers[model.name], free)
    heldout = inputs.heldout() if inputs.exist else _heldout_of_settings(settings, records)
    untrained = base_checkpoint(settings.student)
    return Replay(ReplaySession(settings, records, cast, speakers["student"], heldout, untrained))


def _free_judges(inputs: Inputs, run: Recorded, closing: ExitStack) -> FreeJudges:
    """The run's own verifier, with the files that the run kept instead of the user's."""
    judge = run.settings.judge
    if judge.verifier is None:
        return open_free_judges(run.settings, closing)
    base = inputs.files if inputs.exist else run.settings.base
    try:
        return FreeJudges(open_verifier_judge(judge.verifier, inputs.own_options(judge.options), base, closing))
    except SettingsError as error:
        raise SettingsError(
            f"a replay judges again with the run's own verifier: {error} Name it: --set judge.OPTION=/its/full/path"
        ) from error


def _templates(inputs: Inputs, run: Recorded) -> Templates:
    if inputs.exist and not run.other_prompts:
        return open_templates(inputs.prompts)
    templates = open_templates(run.settings.prompts.dir)
    if not run.other_prompts and templates.hashes() != run.records.meta("templates"):
        raise UsageError(
            "this run kept no copy of its prompts, and the present ones differ; name its own: --set prompts.dir=FOLDER"
        )
    return templates


def _heldout_of_settings(settings: Settings, records: Records) -> Mapping[str, Mapping[str, Question]]:
    """The held-out questions from the question files, for a run that kept no copy of them."""
    try:
        sets = open_questions(settings, limit=None, observer=Observers([]), records=records)
    except QuestionsError as error:
        raise QuestionsError(f"this run kept no copy of its held-out questions. {error}") from error
    return {name: {question.id: question for question in held} for name, held in sets.heldout.items()}


def overrides_prompts(overrides: Sequence[str]) -> bool:
    """Whether `--set` names another folder of prompts."""
    return any(override.startswith("prompts.dir=") for override in overrides)
