"""The stage commands: open the run directory, run one stage or all, watch for signals, and say how it ended."""

from __future__ import annotations

import asyncio
import errno
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import typer

from meteor_agents.assembly.config_file import read_config
from meteor_agents.assembly.opening import Opening, Plan
from meteor_agents.calls.open_files import fit_concurrency, raise_open_files
from meteor_agents.calls.server import watch_queues
from meteor_agents.calls.tally import Tally, keep_telling
from meteor_agents.cli import event_loop
from meteor_agents.cli.commands.estimate import announce
from meteor_agents.cli.commands.results.report import report_ended_run
from meteor_agents.cli.newest_student import how_to_use, newest_student
from meteor_agents.cli.progress import JsonLog, open_progress
from meteor_agents.cli.signals import draining_on_signals
from meteor_agents.cli.tables import print_scoreboard
from meteor_agents.cli.terminal import PlainConsole, say
from meteor_agents.data.own_rows import read_own_rows
from meteor_agents.errors import StoreError
from meteor_agents.events import Note, Observer, Observers
from meteor_agents.pipeline.engine import Drain, Interrupted, first_error
from meteor_agents.pipeline.pipeline import Pipeline
from meteor_agents.pipeline.session import Session
from meteor_agents.settings.run import Settings
from meteor_agents.store.records import open_for_reading
from meteor_agents.store.run_directory import RunDirectory
from meteor_agents.store.store import Store
from meteor_agents.training import ChatExample, Example

STAGES: Mapping[str, Callable[[Pipeline], Awaitable[None]]] = {
    "run": Pipeline.run,
    "distill": Pipeline.distill,
    "finetune": Pipeline.finetune,
    "refine": Pipeline.refine,
    "self-train": Pipeline.self_train,
    "evaluate": Pipeline.measure,
}
"""Name of a stage command -> what it does."""
TRAIN = ("run", "finetune", "refine", "self-train")
"""The stage commands that may change the student."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""Error numbers of a full or failing disk. Whatever writes to it first meets one of them."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The command line of a stage command."""

    config: str
    run_dir: Path | None = None
    overrides: tuple[str, ...] = ()
    limit: int | None = None
    no_train: bool = False
    fresh: bool = False
    data: Path | None = None
    """A file of the user's own rows, for `finetune`."""
    settings: Settings | None = None
    """Used instead of the file `config`."""
    work: Callable[[Session], Awaitable[None]] | None = None
    """Done instead of the stage."""


def run_stage(stage: str, request: RunRequest) -> None:
    """Run one stage command. Raises `MeteorError`; exits with 130 when it was interrupted and has drained."""
    settings = request.settings or read_config(request.config, request.overrides)
    own_rows = read_own_rows(request.data) if request.data else []
    path = request.run_dir or Path("runs") / settings.name
    directory = RunDirectory(path)
    if request.fresh and (aside := directory.set_aside()):
        say(f"the earlier run is now {aside}")
    with directory:
        store = Store(directory.database)
        try:
            event_loop.run(_run(stage, request, settings, directory, store, own_rows))
        except Interrupted:
            say("stopped; everything received is saved; run the same command to continue", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno not in _DISK:
                raise
            raise StoreError(
                f"{path} cannot be written: {error.strerror}; what was committed is still there: make room on that disk "
                "and run the same command again"
            ) from error
        finally:
            store.close()
    report_ended_run(path)
    if stage in ("run", "evaluate"):
        next_steps = stage == "run" and request.config == "quickstart"
        print_scoreboard(path, next_steps=next_steps, console=PlainConsole())
    if stage in TRAIN and not request.no_train and request.work is None:
        _say_where_the_student_is(directory)


def _say_where_the_student_is(directory: RunDirectory) -> None:
    with closing(open_for_reading(directory.database)) as records:
        student = newest_student(records, directory.checkpoints)
    for line in how_to_use(student) if student else ():
        say(line)


async def _run(
    stage: str,
    request: RunRequest,
    settings: Settings,
    directory: RunDirectory,
    store: Store,
    own_rows: Sequence[Example | ChatExample],
) -> None:
    drain = Drain()
    plan = Plan(
        trains=not request.no_train and stage not in ("distill", "evaluate"),
        self_trains=stage in ("run", "self-train"),
        evaluates=stage in ("run", "evaluate"),
        limit=request.limit,
    )
    tally = Tally()
    with open_progress() as progress, JsonLog(directory.log) as log:
        observer: Observer = Observers([tally, progress, log])
        with draining_on_signals(drain, tally, observer):
            async with AsyncExitStack() as stack:
                opening = Opening(settings, directory, store, observer, drain)
                session = await opening.session(plan, stack)
                for name, line in session.lines.items():
                    tally.limited.setdefault(name.partition(" ")[0], line)  # of a panel, the first judge
                await announce(stage, request.limit, session)
                servers = list({id(line.server): line.server for line in session.lines.values()}.values())
                if bounded := fit_concurrency(servers, raise_open_files()):
                    observer.on_event(Note(bounded))
                _tell_of_locks(store, observer)
                _collect_rarely(session.window().most)
                async with _beside(keep_telling(tally, observer), watch_queues(servers)):
                    await _work(stage, request, session, own_rows)
        observer.on_event(tally.progress())


async def _work(
    stage: str, request: RunRequest, session: Session, own_rows: Sequence[Example | ChatExample]
) -> None:
    if request.work is not None:
        await request.work(session)
    elif own_rows:
        await Pipeline(session).finetune(own_rows)
    else:
        await STAGES[stage](Pipeline(session))


def _tell_of_locks(store: Store, observer: Observer) -> None:
    """Say in the run's own view that another program keeps the store locked; the store's thread notices it."""
    loop = asyncio.get_running_loop()

    def tell(sentence: str) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(observer.on_event, Note(sentence))

    store.tell(tell)


def _collect_rarely(conversations: int) -> None:
    """Keep the garbage collector from scanning objects that live as long as the run.

    With a thousand conversations in flight, each full collection stopped the event loop for 30 ms and freed nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(max(20_000, 100 * conversations), 20, 50)


@asynccontextmanager
async def _beside(*companions: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run the companions while the body runs, and no longer. One that fails ends the body."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(companion) for companion in companions]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except ExceptionGroup as errors:
        raise first_error(errors) from errors
