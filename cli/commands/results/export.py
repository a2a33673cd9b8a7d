"""`meteor export`: write a run's examples, preference pairs or traces to files that other trainers read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import yaml

from meteor_agents.assembly.opening import open_templates
from meteor_agents.cli.commands.results.llama_factory import Style, check_beside, write_beside
from meteor_agents.cli.commands.results.status import open_run
from meteor_agents.cli.terminal import say
from meteor_agents.errors import MissingExtraError, StoreError, UsageError
from meteor_agents.method.conversations import DISTILL, REFINE, SELF_TRAIN
from meteor_agents.method.student_prompts import StudentPrompts
from meteor_agents.method.training_rows import TrainingRows, distillation_rows, refinement_rows, self_training_rows
from meteor_agents.models import ChatMessage
from meteor_agents.settings.loading import load_settings
from meteor_agents.settings.run import Settings
from meteor_agents.traces import Trace
from meteor_agents.training import ChatExample, Example, PreferencePair, TrainingRow

What = Literal["sft", "preferences", "traces"]
Format = Literal["jsonl", "parquet"]
SUFFIXES: Mapping[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
"""Suffix of a file -> what it holds."""


def export_run(
    run: Path, *, what: What, file_format: Format | None, out: Path, llama_factory: Style | None = None
) -> None:
    """Write the file, all or nothing. Only accepted traces become examples or pairs; the others are counted.

    Without `file_format`, the suffix of `out` decides. With `llama_factory`, also write a file in that format beside it,
    and its entry in `dataset_info.json`. Raises `UsageError` when there is nothing to write or the file exists, and
    `StoreError` for a damaged store.
    """
    file_format = format_of(out, file_format)
    if out.exists():
        raise UsageError(f"{out} exists already; name another file")
    if llama_factory:
        if what == "traces":
            raise UsageError("--llama-factory is for --what sft and preferences; traces are no training data")
        check_beside(out, llama_factory)
    with closing(open_run(run)) as records:
        traces = list(records.current_traces())
    settings = _settings_of(run)
    rows, left_out = _rows(what, traces, settings)
    if what == "traces" and file_format == "parquet":
        rows = [_one_shape(row) for row in rows]
    if not rows:
        reasons = f" ({_reasons(left_out)})" if left_out else ""
        raise UsageError(f"{run} has nothing to export as {what} yet{reasons}")
    written = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if file_format == "jsonl":
            written.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        else:
            _write_parquet(rows, written)
        written.replace(out)
        beside = write_beside(rows, out, llama_factory) if llama_factory else None
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    say(f"{len(rows)} rows -> {out}" + (f" and {beside}" if beside else ""))
    if left_out:
        say(f"left out: {_reasons(left_out)}")


def format_of(out: Path, given: Format | None) -> Format:
    """The format to write: the one given, else the one that the file's suffix names, else JSON lines.

    Raises `UsageError` when the suffix names another format than the one given.
    """
    named = SUFFIXES.get(out.suffix.lower())
    if given and named and given != named:
        raise UsageError(
            f"--format {given}, but {out} ends with {out.suffix}, the suffix of {named} files; change one of them"
        )
    return given or named or "jsonl"


def _reasons(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} traces {reason}" for reason, count in left_out.items())


def _rows(what: What, traces: Sequence[Trace], settings: Settings) -> tuple[list[dict[str, Any]], Mapping[str, int]]:
    if what == "traces":
        return [trace.model_dump(mode="json") for trace in traces], {}
    templates = open_templates(settings.prompts.dir)
    prompts = StudentPrompts(templates, settings.domain, in_one_chat=settings.refine.in_one_chat)
    by_stage: dict[str, list[Trace]] = {}
    for trace in traces:
        by_stage.setdefault(trace.stage, []).append(trace)
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for stage, held in by_stage.items():
        converted = _converted(what, stage, held, prompts, settings)
        left_out.update(converted.left_out)
        rows += [{"id": row.id, "stage": stage, **_columns(row)} for row in converted.rows]
    return rows, left_out


def _converted(
    what: What, stage: str, traces: Sequence[Trace], prompts: StudentPrompts, settings: Settings
) -> TrainingRows:
    """Examples are those that the run trains on (where it trains on pairs, the accepted replies)."""
    conversion = settings.refine.conversion
    if what == "sft" and stage == DISTILL:
        return distillation_rows(traces, prompts)
    if stage == REFINE:
        return refinement_rows(traces, prompts, "pairs" if what == "preferences" else
                       "final" if conversion == "pairs" else conversion)  # fmt: skip
    if what == "preferences" and stage.startswith(SELF_TRAIN):
        return self_training_rows(traces, prompts)
    return TrainingRows([], {})


def _columns(row: TrainingRow) -> dict[str, Any]:
    """`messages`, the last of which is a reply to learn; or `prompt`, `chosen`, `rejected`, each a list of messages."""
    match row:
        case Example():
            return {"messages": [*_turns(row.prompt), _reply(row.target)]}
        case ChatExample():
            return {"messages": _turns(row.messages)}
        case PreferencePair():
            return {"prompt": _turns(row.prompt), "chosen": [_reply(row.chosen)], "rejected": [_reply(row.rejected)]}


def _reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _one_shape(trace: dict[str, Any]) -> dict[str, Any]:
    """A Parquet column holds values of one shape: the question and the messages, which do not, travel as JSON text."""
    return {**trace, "question": json.dumps(trace["question"]), "messages": json.dumps(trace["messages"])}


def _turns(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    return [message.model_dump() for message in messages]


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("writing Parquet", "parquet") from error
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _settings_of(run: Path) -> Settings:
    """The resolved settings that the run was started with."""
    path = run / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    return load_settings(content, base=run, source=str(path))
