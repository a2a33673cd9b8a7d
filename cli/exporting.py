"""`meteor export`: what a run has made, as files that other trainers read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import typer
import yaml

from meteor_agents.agents import Student, Voice
from meteor_agents.cli.assembly import open_templates
from meteor_agents.errors import MissingExtraError, StoreError, UsageError
from meteor_agents.models import ChatMessage, SamplingParams
from meteor_agents.settings import Settings, load_settings
from meteor_agents.store import open_for_reading
from meteor_agents.traces import Outcome, Trace

What = Literal["sft", "preferences", "traces"]


def export_run(run: Path, *, what: What, file_format: Literal["jsonl", "parquet"], out: Path) -> None:
    """Write the file whole or not at all. Only accepted traces become examples or pairs."""
    if out.exists():
        raise UsageError(f"{out} exists already; name another file")
    if not run.is_dir():
        raise UsageError(f"{run} is not a run directory")
    settings = _settings_of(run)
    with closing(open_for_reading(run / "run.db")) as records:
        traces = list(records.current_traces())
    student = _prompting_student(settings)
    makers = {"sft": _examples, "preferences": _preferences, "traces": _whole}
    rows = list(makers[what](traces, student))
    if what == "traces" and file_format == "parquet":
        rows = [_one_shape(row) for row in rows]
    if not rows:
        raise UsageError(f"{run} has nothing to export as {what} yet")
    written = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if file_format == "jsonl":
            written.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        else:
            _write_parquet(rows, written)
        written.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    typer.echo(f"{len(rows)} rows -> {out}")


def _examples(traces: Sequence[Trace], student: Student) -> Iterator[dict[str, Any]]:
    """`messages`, the last of which is the reply to learn (stages 1 and 2)."""
    for trace in traces:
        reply = trace.answer or trace.accepted_attempt
        if trace.outcome is Outcome.ACCEPTED and reply is not None:
            prompt = _turns(student.prompt(trace.question))
            yield {
                "id": trace.question.id,
                "stage": trace.stage,
                "messages": [*prompt, {"role": "assistant", "content": reply.text}],
            }


def _preferences(traces: Sequence[Trace], student: Student) -> Iterator[dict[str, Any]]:
    """`prompt`, `chosen`, `rejected` as message lists: stage 3's pairs, and stage 2's accepted over rejected attempts."""
    for trace in traces:
        if trace.outcome is not Outcome.ACCEPTED:
            continue
        if trace.stage.startswith("self-train"):
            low, high = trace.attempts
            pairs = [(high.text, low.text)]
        elif (accepted := trace.accepted_attempt) is not None:
            pairs = [(accepted.text, attempt.text) for attempt in trace.attempts if attempt is not accepted]
        else:
            continue
        for chosen, rejected in pairs:
            yield {
                "id": trace.question.id,
                "stage": trace.stage,
                "prompt": _turns(student.prompt(trace.question)),
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }


def _whole(traces: Sequence[Trace], student: Student) -> Iterator[dict[str, Any]]:
    for trace in traces:
        yield trace.model_dump(mode="json")


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


def _prompting_student(settings: Settings) -> Student:
    """A student that renders prompts and never speaks."""
    return Student(Voice(_Mute(), open_templates(settings.prompts.dir), settings.domain, settings.student.sampling))


class _Mute:
    async def complete(self, messages: object, sampling: SamplingParams, occasion: object) -> Any:
        raise UsageError("an export asks no model")
