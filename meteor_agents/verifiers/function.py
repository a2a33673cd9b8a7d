"""`module:function`: a user's own check, in a process of its own."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.child import Phase
from meteor_agents.verifiers.verdicts import correct, incorrect, undecided
from meteor_agents.verifiers.workers import Ended, Job, Workers

Check = Callable[[Question, str], object]
"""Takes a question and an answer. Returns whether it is correct, or what is wrong with it (nothing: an empty text),
or a verdict."""
SIGNATURE = "check(question, answer)"


class FunctionOptions(BaseModel):
    """How a user's function is run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_s: float = Field(default=30.0, gt=0, le=86_400)
    """A check that takes longer is ended, and gives no verdict."""
    workers: int = Field(default=4, ge=1, le=64)
    """Checks at once, each in a process that imports the module itself. More of them help a function that waits."""


class FunctionVerifier:
    """Asks a Python function in this process. The function must stand being called from several threads."""

    def __init__(self, name: str, check: Check) -> None:
        self.name = name
        self.check = check

    @classmethod
    def load(cls, name: str, base: Path, options: FunctionOptions | None = None) -> IsolatedFunction:
        """The function that `name` says, such as `checks:is_polite`; the module may lie in the folder `base`.

        It runs in child processes. Raises `SettingsError` when there is no such function, when it cannot be called
        with a question and an answer, or when its module does not import.
        """
        return IsolatedFunction(name, base, options or FunctionOptions())

    def verify(self, question: Question, answer: str) -> Verdict:
        """The function's finding. `Status.ERROR` when it raises, or returns nothing that is a finding."""
        try:
            found = self.check(question, answer)
        except (Exception, SystemExit) as error:  # the user's code may raise anything; the run continues
            return undecided(self.name, f"{self.name} raised {described(error)}{place(error)}")
        match found:
            case Verdict():
                return found.model_copy(update={"model": f"verifier:{self.name}"})
            case True | "":
                return correct(self.name)
            case False:
                return incorrect(self.name, "The answer is not correct.")
            case str():
                return incorrect(self.name, found)
            case _:
                returned = type(found).__name__
                return undecided(self.name, f"{self.name} must return a bool, a str or a Verdict, not {returned}.")

    def close(self) -> None:
        """Does nothing: there is nothing to release."""


class IsolatedFunction:
    """Asks a user's function in child processes: it can neither end the run nor hold it longer than `timeout_s`."""

    def __init__(self, name: str, base: Path, options: FunctionOptions) -> None:
        """Raises `SettingsError` as `FunctionVerifier.load` says."""
        self.name = name
        arguments = {"name": name, "base": str(base.resolve())}
        job = Job(f"{__name__}:serve_function", arguments, timeout_s=options.timeout_s)
        self._workers = Workers(job, most=options.workers)
        try:
            self._workers.start()
        except (OSError, SettingsError) as error:
            raise SettingsError(f"Verifier {name!r}: {error}") from error

    def verify(self, question: Question, answer: str) -> Verdict:
        """The function's finding. `Status.ERROR` when it raises, takes too long or ends its process."""
        found = self._workers.ask("verify", question, answer)
        if not isinstance(found, Ended):
            return Verdict.model_validate(found)
        hint = " Raise its option timeout_s if it needs longer." if found.late else ""
        return undecided(self.name, f"{self.name} gave no verdict: {found.reason}.{hint}")

    def close(self) -> None:
        """Ends the processes, also in the middle of a check."""
        self._workers.close()


class ServedFunction:
    """What a child process serves."""

    def __init__(self, verifier: FunctionVerifier) -> None:
        self._verifier = verifier

    def call(self, method: str, question: Question, answer: str, extra: dict[str, Any], phase: Phase) -> Any:
        """The verdict, as JSON can hold it."""
        return self._verifier.verify(question, answer).model_dump(mode="json")


def serve_function(name: str, base: str, blobs: Sequence[bytes]) -> ServedFunction:
    """Imports the user's module. Raises `SettingsError` if that, or the function, is not as it must be."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise SettingsError("it must be written as 'module:function'.")
    check = getattr(import_from(module_name, base), function_name, None)
    if not callable(check):
        raise SettingsError(f"the module {module_name!r} has no function {function_name!r}.")
    if inspect.iscoroutinefunction(check):
        raise SettingsError(f"{function_name} must be a plain function, not an async one: {SIGNATURE}.")
    try:
        signature = inspect.signature(check)
    except (TypeError, ValueError):  # some functions written in C do not tell
        return ServedFunction(FunctionVerifier(name, check))
    try:
        signature.bind("question", "answer")
    except TypeError as error:
        raise SettingsError(
            f"it is called as {SIGNATURE}, but it is defined as {function_name}{signature} ({error})."
        ) from error
    return ServedFunction(FunctionVerifier(name, check))


def import_from(module_name: str, folder: str) -> object:
    """Imports the module, which may lie in that folder. Modules next to it can be imported as well, also later."""
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # importing runs the user's code
        raise SettingsError(
            f"the module {module_name!r} does not import ({described(error)}{place(error)}). "
            f"It is looked for in {folder} and among the installed packages."
        ) from error


def described(error: BaseException) -> str:
    """The error's type and message, or the type alone where there is no message."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def place(error: BaseException) -> str:
    """The last line of the user's that was run, as ` (checks.py, line 6)`; empty if there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def is_users(filename: str) -> bool:
    """Whether code is neither of Python, nor of an installed package, nor of this one."""
    ours = (str(Path(__file__).parent), str(Path(inspect.__file__).parent), str(Path(sys.prefix, "lib")))
    return not filename.startswith((*ours, "<"))
