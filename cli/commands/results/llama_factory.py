"""Exported rows in the two formats of LLaMA-Factory, and the entry in `dataset_info.json` that describes the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from meteor_agents.errors import UsageError

Style = Literal["alpaca", "sharegpt"]
Row = Mapping[str, Any]

INFO = "dataset_info.json"
PREFERENCES = ("chosen", "rejected")


def file_beside(out: Path, style: Style) -> Path:
    """The path of the file for LLaMA-Factory that goes with the export `out`."""
    return out.with_name(f"{out.stem}.{style}.json")


def check_beside(out: Path, style: Style) -> None:
    """Raises `UsageError` when the file or its entry exists already."""
    if file_beside(out, style).exists():
        raise UsageError(f"{file_beside(out, style)} exists already; name another --out")
    if _name(out, style) in _known(out):
        raise UsageError(f"{out.with_name(INFO)} describes {_name(out, style)!r} already; name another --out")


def write_beside(rows: Sequence[Row], out: Path, style: Style) -> Path:
    """Write the rows of an export to a second file, and its description to `dataset_info.json` in the same folder."""
    preferences = "chosen" in rows[0]
    convert: Callable[[Row], dict[str, Any]] = _alpaca if style == "alpaca" else _sharegpt
    path = file_beside(out, style)
    path.write_text(json.dumps([convert(row) for row in rows], ensure_ascii=False, indent=1), encoding="utf-8")
    info = {**_known(out), _name(out, style): _description(path.name, style, preferences)}
    part = out.with_name(f".{INFO}.part")
    part.write_text(json.dumps(info, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    part.replace(out.with_name(INFO))
    return path


def _name(out: Path, style: Style) -> str:
    return f"{out.stem}_{style}"


def _known(out: Path) -> dict[str, Any]:
    """The entries in the folder's `dataset_info.json`."""
    path = out.with_name(INFO)
    if not path.exists():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read, so nothing can be added to it: {error}") from error
    if not isinstance(info, dict):
        raise UsageError(f"{path} holds no JSON object, so nothing can be added to it")
    return info


def _description(file_name: str, style: Style, preferences: bool) -> dict[str, Any]:
    columns = (
        {"prompt": "instruction", "query": "input", "system": "system", "history": "history"}
        if style == "alpaca"
        else {"messages": "conversations", "system": "system"}
    )
    if preferences:
        columns |= {side: side for side in PREFERENCES}
    elif style == "alpaca":
        columns["response"] = "output"
    return {
        "file_name": file_name,
        "formatting": style,
        **({"ranking": True} if preferences else {}),
        "columns": columns,
    }


def _alpaca(row: Row) -> dict[str, Any]:
    system, asked, replies = _parts(row)
    *before, last = asked
    *earlier, reply = [*replies, None] if "chosen" in row else replies
    target = {"output": reply} if reply is not None else {side: row[side][0]["content"] for side in PREFERENCES}
    history = [list(turn) for turn in zip(before, earlier, strict=True)]
    return {"instruction": last, "input": "", **target, "system": system, "history": history}


def _sharegpt(row: Row) -> dict[str, Any]:
    system, asked, replies = _parts(row)
    turns = [_said("human" if i % 2 == 0 else "gpt", (replies if i % 2 else asked)[i // 2])
             for i in range(len(asked) + len(replies))]  # fmt: skip
    sides = {side: _said("gpt", row[side][0]["content"]) for side in PREFERENCES if side in row}
    return {"conversations": turns, **sides, "system": system}


def _said(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


def _parts(row: Row) -> tuple[str, list[str], list[str]]:
    """System text, user turns and assistant turns. Both formats need them to alternate, user first."""
    messages = row["prompt"] if "chosen" in row else row["messages"]
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    turns = [message for message in messages if message["role"] != "system"]
    if any(turn["role"] != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise UsageError(
            f"the row {row['id']!r} does not alternate between user and assistant, as LLaMA-Factory requires"
        )
    said = {role: [turn["content"] for turn in turns if turn["role"] == role] for role in ("user", "assistant")}
    return system, said["user"], said["assistant"]
