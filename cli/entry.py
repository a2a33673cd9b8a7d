"""The entry point of `meteor`: errors as sentences, outcomes as exit codes.

Exit codes: 0 done; 1 failed; 2 wrong settings, input or usage; 3 stopped at the budget; 130 interrupted. After the last
two everything is saved, and the same command resumes.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import tempfile
import traceback
import warnings
from typing import NoReturn

import typer

from meteor_agents.cli.app import app, exit_code
from meteor_agents.cli.terminal import one_line, say
from meteor_agents.errors import MeteorError
from meteor_agents.version import VERSION

TRACEBACK = "METEOR_TRACEBACK"
"""Environment variable: when set, an unexpected error prints its traceback."""


def run() -> None:
    """Run the command line and exit with the code of its outcome."""
    if not sys.warnoptions:  # a library's warnings are for developers: PYTHONWARNINGS or -W shows them
        warnings.simplefilter("ignore")
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except MeteorError as error:
        say(f"meteor: {error}", err=True)
        sys.exit(exit_code(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("meteor: interrupted; everything received is saved, the same command resumes", err=True)
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            _fail_as_bug(error)
        say(f"meteor: {error.filename} cannot be used: {error.strerror}", err=True)
        sys.exit(1)
    except typer.Abort:
        sys.exit(1)
    except Exception as error:  # nothing else may reach the user as a traceback
        _fail_as_usage(error)
        _fail_as_bug(error)


def _fail_as_usage(error: Exception) -> None:
    """Show what Typer says about a wrong command line, and exit; return if the error is none of Typer's."""
    show = getattr(error, "show", None)  # its class is not public
    if show is not None:
        said = io.StringIO()
        show(file=said)
        say(said.getvalue().rstrip(), err=True)
        sys.exit(getattr(error, "exit_code", 2))


def _fail_as_bug(error: Exception) -> NoReturn:
    """Say that meteor has a bug and where the details are; exit with 1."""
    if os.environ.get(TRACEBACK):
        say("".join(traceback.format_exception(error)), err=True)
        sys.exit(1)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="meteor-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as details:
            details.write(f"meteor-agents {VERSION}, Python {sys.version}\n{' '.join(sys.orig_argv)}\n\n")
            details.writelines(traceback.format_exception(error))
        where = f"details: {details.name}"
    except OSError:
        where = f"{TRACEBACK}=1 prints the details"
    what = one_line(f"{type(error).__name__}: {error}")[:300]
    say(
        f"meteor: this is a bug in meteor ({what}); {where}; with {TRACEBACK}=1 the same command prints the traceback. "
        "Everything received is saved.",
        err=True,
    )
    sys.exit(1)
