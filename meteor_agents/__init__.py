"""METEOR: evolve a small student model with a teacher and a judge (arXiv 2411.11933).

The names below are the public Python face; each is loaded when it is first used. Everything else is internal and may move.

    import meteor_agents as meteor

    async with meteor.open_run("quickstart") as run:      # a preset, a settings file, or a Settings object
        await run.refine()                                # any stage; each resumes
        for trace in run.traces("refine", outcome="accepted"):
            print(trace.question.question, trace.attempts[-1].answer)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meteor_agents.version import VERSION as __version__

if TYPE_CHECKING:
    from meteor_agents.assembly.run import Run as Run
    from meteor_agents.assembly.run import RunView as RunView
    from meteor_agents.assembly.run import load_settings as load_settings
    from meteor_agents.assembly.run import open_run as open_run
    from meteor_agents.assembly.run import read_run as read_run
    from meteor_agents.errors import BudgetReached as BudgetReached
    from meteor_agents.errors import MeteorError as MeteorError
    from meteor_agents.errors import ModelError as ModelError
    from meteor_agents.errors import StoreError as StoreError
    from meteor_agents.errors import TrainingError as TrainingError
    from meteor_agents.errors import UsageError as UsageError
    from meteor_agents.messages import Answer as Answer
    from meteor_agents.messages import Attempt as Attempt
    from meteor_agents.messages import Guide as Guide
    from meteor_agents.messages import Guideline as Guideline
    from meteor_agents.messages import Question as Question
    from meteor_agents.messages import Status as Status
    from meteor_agents.messages import Verdict as Verdict
    from meteor_agents.models import ChatMessage as ChatMessage
    from meteor_agents.models import ChatModel as ChatModel
    from meteor_agents.models import Completion as Completion
    from meteor_agents.models import FinishReason as FinishReason
    from meteor_agents.models import SamplingParams as SamplingParams
    from meteor_agents.models import Usage as Usage
    from meteor_agents.settings import Settings as Settings
    from meteor_agents.store.call_records import CallRecord as CallRecord
    from meteor_agents.store.stage_records import Round as Round
    from meteor_agents.traces import Outcome as Outcome
    from meteor_agents.traces import Trace as Trace
    from meteor_agents.training import Checkpoint as Checkpoint
    from meteor_agents.training import Example as Example
    from meteor_agents.training import PreferencePair as PreferencePair
    from meteor_agents.training import Trainer as Trainer
    from meteor_agents.training import TrainingJob as TrainingJob
    from meteor_agents.training import TrainingReport as TrainingReport
    from meteor_agents.verifiers import Verifier as Verifier

_HOMES = {
    "assembly.run": ("Run", "RunView", "load_settings", "open_run", "read_run"),
    "errors": ("BudgetReached", "MeteorError", "ModelError", "StoreError", "TrainingError", "UsageError"),
    "messages": ("Answer", "Attempt", "Guide", "Guideline", "Question", "Status", "Verdict"),
    "models": ("ChatMessage", "ChatModel", "Completion", "FinishReason", "SamplingParams", "Usage"),
    "settings": ("Settings",),
    "store.call_records": ("CallRecord",),
    "store.stage_records": ("Round",),
    "traces": ("Outcome", "Trace"),
    "training": ("Checkpoint", "Example", "PreferencePair", "Trainer", "TrainingJob", "TrainingReport"),
    "verifiers": ("Verifier",),
}
"""Module -> the public names that it defines."""
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "Attempt",
    "BudgetReached",
    "CallRecord",
    "ChatMessage",
    "ChatModel",
    "Checkpoint",
    "Completion",
    "Example",
    "FinishReason",
    "Guide",
    "Guideline",
    "MeteorError",
    "ModelError",
    "Outcome",
    "PreferencePair",
    "Question",
    "Round",
    "Run",
    "RunView",
    "SamplingParams",
    "Settings",
    "Status",
    "StoreError",
    "Trace",
    "Trainer",
    "TrainingError",
    "TrainingJob",
    "TrainingReport",
    "Usage",
    "UsageError",
    "Verdict",
    "Verifier",
    "__version__",
    "load_settings",
    "open_run",
    "read_run",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562), so that `meteor --help` does not wait for what it does not need."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
