"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        show_default=False,
        help="A settings file, a folder with a meteor.yaml, or a preset such as quickstart. Default: ./meteor.yaml.",
    ),
]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", metavar="DIR", help="The run directory. Default: runs/NAME.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: --set refine.iterations=5. Repeatable."),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="Use at most N questions per stage and held-out set."),
]
NoTrain = Annotated[bool, typer.Option("--no-train", help="Hold conversations only; do not train the student.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Move an earlier run in the run directory aside and start over.")
]
NoRetryFailed = Annotated[
    bool,
    typer.Option("--no-retry-failed", help="In finished stages, do not ask questions again whose calls failed."),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
PromptsDir = Annotated[
    Path | None, typer.Option("--dir", metavar="DIR", help="Your folder of templates; they replace built-in ones.")
]
PromptsConfig = Annotated[
    str | None,
    typer.Option("--config", metavar="CONFIG", help="Settings that give the domain, the prompts and a question."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def overrides(set_: list[str] | None, no_retry_failed: bool = False) -> tuple[str, ...]:
    """The values of `--set`, with what other options set."""
    return (*(set_ or ()), *(("retry_failed=false",) if no_retry_failed else ()))
