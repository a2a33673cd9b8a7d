"""A run as a Python object: open it, run its stages, read its results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from meteor_agents.analysis.status import read_status
from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.opening import Opening, Parts, Plan
from meteor_agents.backends.base_model import trains_here
from meteor_agents.errors import UsageError
from meteor_agents.messages import Question
from meteor_agents.method.decoding.opening import check_strategies
from meteor_agents.models import ChatModel
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.pipeline.session import Session
from meteor_agents.settings.loading import load_settings as load_content
from meteor_agents.settings.loading import set_value
from meteor_agents.settings.roles import JudgeSettings
from meteor_agents.settings.run import Settings
from meteor_agents.store.call_records import CallRecord
from meteor_agents.store.records import Records, open_for_reading
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.stage_records import Round
from meteor_agents.store.store import Store
from meteor_agents.traces import Outcome, Trace
from meteor_agents.training import ChatExample, Example, Trainer
from meteor_agents.verifiers import Verifier
from meteor_agents.verifiers.function import FunctionVerifier


class RunView:
    """The results of a run, read from its store, also while another process runs it. `read_run` opens one.

    Every method raises `StoreError` when the store cannot be read.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    def traces(self, stage: str | None = None, outcome: str | None = None) -> Iterator[Trace]:
        """The traces of the run under its current settings, in the order in which they were finished.

        `stage` is `distill`, `refine` or `self-train` (`self-train-2` for a second turn); `outcome` is `accepted`,
        `taught`, `exhausted` or `failed`. Raises `ValueError` for another outcome.
        """
        wanted = Outcome(outcome) if outcome is not None else None
        for trace in self._records.current_traces():
            if stage in (None, trace.stage) and wanted in (None, trace.outcome):
                yield trace

    def rounds(self) -> list[Round]:
        """The updates of the student, in order: the data of each, and whether it was promoted and why."""
        stages = self._records.current_stages()
        return [round_ for stage in stages for round_ in self._records.rounds(stage.name, stage.recipe)]

    def scores(self) -> dict[str, dict[str, Any]]:
        """Label of a checkpoint (`base`, `finetune`, ...) or name of a rival -> held-out set -> its figures."""
        return {
            label: content["heldout"] for content in self.status()["scores"].values() for label in content["labels"]
        }

    def calls(self, role: str, count: int = 200) -> list[CallRecord]:
        """The newest calls of a role (`student`, `teacher`, `judge`): stage, request and tokens of each."""
        return self._records.newest_calls(role, count)

    def status(self) -> dict[str, Any]:
        """Stages, calls, tokens, US dollars, rounds and scores: what `meteor status --json` prints."""
        return read_status(self._records)


class Run(RunView):
    """One open run. Each stage resumes: finished work is not repeated, and no finished call is made twice.

    `open_run` opens one. A stage raises `MeteorError` when it cannot go on; everything done until then is kept.

    Example:
        import meteor_agents as meteor

        async with meteor.open_run("quickstart") as run:
            await run.distill()
            await run.finetune()
            for round_ in run.rounds():
                print(round_.stage, round_.round, round_.checkpoint, round_.promoted)
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session.store)
        self.session = session
        self._pipeline = Pipeline(session)

    async def run(self) -> None:
        """All stages in order, with an evaluation before, after each and at the end."""
        check_strategies(self.session.settings, self.session.student.model)
        await self._pipeline.run()

    async def distill(self) -> None:
        """Stage 1, conversations: the student writes a guideline, the teacher answers with it."""
        await self._pipeline.distill()

    async def finetune(self, rows: Sequence[Example | ChatExample] = ()) -> None:
        """Stage 1, training: on the teacher's answers, or on rows of your own. Raises `UsageError` without a trainer."""
        await self._pipeline.finetune(rows)

    async def refine(self) -> None:
        """Stage 2: attempts, verdicts and guides, with an update of the student for every K accepted traces."""
        await self._pipeline.refine()

    async def self_train(self) -> None:
        """Stage 3: the student's high-FLOPs answers preferred over its low-FLOPs ones.

        Raises `SettingsError` where the student's model cannot decode as `self_train` says.
        """
        check_strategies(self.session.settings, self.session.student.model)
        await self._pipeline.self_train()

    async def evaluate(self) -> None:
        """Score every checkpoint and every rival on the held-out questions, and compare them."""
        await self._pipeline.measure()


def load_settings(config: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings from a preset's name, a settings file, or their content as a mapping.

    `overrides` maps dotted keys to values, like `--set`. Relative paths start from the file, or from the working directory
    for a mapping. Raises `SettingsError` that names every wrong setting.

    Example:
        >>> settings = load_settings("quickstart", {"refine.iterations": 5})
        >>> settings.refine.iterations
        5
    """
    if not isinstance(config, Mapping):
        return read_config(str(config), overrides or {})
    content = deepcopy(dict(config))
    for key, value in (overrides or {}).items():
        set_value(content, key, value)
    return load_content(content, base=Path.cwd(), source="settings")


@asynccontextmanager
async def open_run(
    config: Settings | str | Path | Mapping[str, Any],
    folder: str | Path | None = None,
    *,
    judge: Verifier | Callable[[Question, str], object] | None = None,
    models: Mapping[str, ChatModel] | None = None,
    trainer: Trainer | None = None,
    trains: bool | None = None,
) -> AsyncIterator[Run]:
    """Open a run in `folder` (default: `runs/NAME`), new or resumed.

    `config` is what `load_settings` takes, or its result. `judge` is a verifier, or a function of a question and an answer
    that returns whether the answer is right (or what is wrong with it). `models` replaces the model of a role, `trainer`
    the trainer. `trains` is false for conversations only; by default the student is trained where its backend allows it.
    Raises `MeteorError` if something cannot be opened.

    Example:
        import asyncio

        import meteor_agents as meteor

        def brief(question: meteor.Question, answer: str) -> bool:
            return len(answer.split()) <= 20

        async def main() -> None:
            async with meteor.open_run("quickstart", "runs/brief", judge=brief, trains=False) as run:
                await run.refine()
                print(len(list(run.traces("refine", outcome="accepted"))), "accepted")

        asyncio.run(main())
    """
    settings = config if isinstance(config, Settings) else load_settings(config)
    verifier = judge if judge is None or isinstance(judge, Verifier) else _as_verifier(judge)
    if verifier is not None:
        settings = settings.model_copy(update={"judge": JudgeSettings(verifier=verifier.name)})
    if trains is None:
        trains = trainer is not None or trains_here(settings.student)
    parts = Parts(models or {}, verifier, trainer)
    with RunDirectory(Path(folder) if folder else Path("runs") / settings.name) as directory:
        store = Store(directory.database)
        try:
            async with AsyncExitStack() as closing:
                opening = Opening(settings, directory, store, parts=parts)
                yield Run(await opening.session(Plan(trains=trains, self_trains=False), closing))
        finally:
            store.close()


@contextmanager
def read_run(folder: str | Path) -> Iterator[RunView]:
    """Read a run without opening it for work. Raises `StoreError`, and `UsageError` for a folder without a run.

    Example:
        import meteor_agents as meteor

        with meteor.read_run("runs/quickstart") as run:
            print(run.status()["stages"])
            for label, heldout in run.scores().items():
                print(label, heldout)
    """
    path = Path(folder)
    if not (path / "run.db").is_file():
        raise UsageError(f"{path} is not a run directory: it has no run.db")
    records = open_for_reading(path / "run.db")
    try:
        yield RunView(records)
    finally:
        records.close()


def _as_verifier(check: Callable[[Question, str], object]) -> Verifier:
    name = f"{check.__module__}:{getattr(check, '__qualname__', type(check).__qualname__)}"
    return FunctionVerifier(name, check)
