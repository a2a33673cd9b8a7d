"""`module:function`: a user's own check."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from meteor_agents.errors import SettingsError
from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.verdicts import correct, incorrect, undecided

Check = Callable[[Question, str], object]
"""Takes a question and an answer. Returns whether it is correct, or what is wrong with it (nothing: an empty text),
or a verdict."""


class FunctionOptions(BaseModel):
    """A user's function has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FunctionVerifier:
    """Asks a user's function, which must stand being called from several threads."""

    def __init__(self, name: str, check: Check) -> None:
        self.name = name
        self.check = check

    @classmethod
    def load(cls, name: str, base: Path) -> FunctionVerifier:
        """The function that `name` says, such as `checks:is_polite`; the module may lie in the folder `base`.

        Raises `SettingsError` when there is no such function or its module does not import.
        """
        module_name, _, function_name = name.partition(":")
        if not module_name or not function_name:
            raise SettingsError(f"Verifier {name!r} must be written as 'module:function'.")
        module = import_from(module_name, base, name)
        check = getattr(module, function_name, None)
        if not callable(check):
            raise SettingsError(f"Verifier {name!r}: the module {module_name!r} has no function {function_name!r}.")
        return cls(name, check)

    def verify(self, question: Question, answer: str) -> Verdict:
        try:
            found = self.check(question, answer)
        except Exception as error:  # the user's code may raise anything; the run goes on without a verdict
            return undecided(self.name, f"{self.name} raised {type(error).__name__}: {error}")
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
        pass


def import_from(module_name: str, base: Path, name: str) -> object:
    """Imports the module, with the folder `base` on the path meanwhile."""
    folder = str(base.resolve())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code
        raise SettingsError(
            f"Verifier {name!r}: the module {module_name!r} does not import ({type(error).__name__}: {error}). "
            f"It is looked for in {folder} and among the installed packages."
        ) from error
    finally:
        sys.path.remove(folder)
