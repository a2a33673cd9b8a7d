"""Files of anything at all: read, or refused with an error of ours, in bounded time."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meteor_agents.data.file_rows import READERS
from meteor_agents.data.own_rows import read_own_rows
from meteor_agents.data.questions import read_questions
from meteor_agents.errors import QuestionsError, UsageError

JSONLIKE = st.text(alphabet='[]{}":,\n\r\\ud83dnaNIfity0159.eE+- questionrfcmsgpl')
ROWS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["question", "id", "reference", "metadata", "messages", "prompt", "completion",
                                       "role", "content"]) | st.text(max_size=3), inner, max_size=5),
    max_leaves=12,
).map(json.dumps)  # fmt: skip
CONTENT = (
    st.binary(max_size=300)
    | (JSONLIKE | st.lists(ROWS, max_size=4).map("\n".join) | st.text()).map(lambda text: text.encode(errors="replace"))
    | st.lists(st.lists(st.text(alphabet='ab ,;\t"\r\n\x00é5.0nan'), max_size=4).map(",".join), max_size=5).map(
        lambda lines: ("question,id,reference\n" + "\n".join(lines)).encode()
    )
)


@settings(max_examples=300)
@given(content=CONTENT, suffix=st.sampled_from(sorted(READERS)))
def test_no_file_raises_anything_but_our_errors(
    content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    with suppress(QuestionsError):
        for question in read_questions(path):
            question.model_dump_json().encode()
    with suppress(UsageError):
        for row in read_own_rows(path):
            row.model_dump_json().encode()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize(
    "piece",
    ["[", "[{},", '{"a":', "9", '"', '\\"', "{}\n", '{"question": 1}\n', ",", ";", "a,b\n", 'a"b,', "\n", "\0", "\r"],
)
def test_a_megabyte_is_read_or_refused_in_bounded_time(tmp_path: Path, suffix: str, piece: str) -> None:
    path = tmp_path / f"q{suffix}"
    for beginning in ("", _BEGINNINGS[suffix]):
        path.write_text(beginning + piece * (1_000_000 // len(piece)))
        began = time.monotonic()
        with suppress(QuestionsError):
            read_questions(path)
        assert time.monotonic() - began < 20


_BEGINNINGS = {".jsonl": '{"question": "', ".json": "[", ".csv": "question,id\n"}
