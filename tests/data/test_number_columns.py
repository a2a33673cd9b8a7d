"""Numbers and gaps, as pandas and spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from meteor_agents.data.questions import read_questions
from tests.data.files import answers, parquet, read


def test_a_gap_is_no_reference_in_any_format(tmp_path: Path) -> None:
    lines = ['{"question": "a", "reference": NaN}', '{"question": "b", "reference": null}',
             '{"question": "c", "reference": ""}', '{"question": "d", "reference": " "}',
             '{"question": "e", "reference": Infinity}', '{"question": "f"}']  # fmt: skip
    assert answers(read(tmp_path / "q.jsonl", "\n".join(lines))) == [None] * 6
    assert answers(read(tmp_path / "q.json", f"[{','.join(lines)}]")) == [None] * 6
    assert answers(read(tmp_path / "q.csv", "question,reference\na,\nb,\"\"\nc\n")) == [None] * 3
    columns = {"question": ["a", "b"], "reference": [float("nan"), None]}
    assert answers(list(read_questions(parquet(tmp_path / "q.parquet", columns)))) == [None, None]


def test_integers_beside_gaps_stay_integers(tmp_path: Path) -> None:
    assert answers(read(tmp_path / "q.csv", "question,reference\na,5.0\nb,\nc,-12.0\n")) == ["5", None, "-12"]
    assert answers(read(tmp_path / "n.csv", "question,reference\na,5.0\nb,nan\nc,NA\n")) == ["5", None, None]
    lines = '{"question": "a", "reference": 5.0}\n{"question": "b", "reference": null}\n{"question": "c", "reference": 7}'
    assert answers(read(tmp_path / "q.jsonl", lines)) == ["5", None, "7"]
    lines = '{"question": "a", "reference": 5.0, "level": 2.0}\n{"question": "b"}'
    (first, _) = read(tmp_path / "q.jsonl", lines)
    assert (first.reference, first.metadata) == ("5", {"level": 2})
    for column in ([5.0, None], [5, None]):
        path = parquet(tmp_path / "q.parquet", {"question": ["a", "b"], "reference": column})
        assert answers(list(read_questions(path))) == ["5", None]


def test_numbers_that_are_not_whole_or_have_no_gap_stay_as_they_are(tmp_path: Path) -> None:
    assert answers(read(tmp_path / "q.csv", "question,reference\na,5.0\nb,\nc,2.5\n")) == ["5.0", None, "2.5"]
    assert answers(read(tmp_path / "q.csv", "question,reference\na,5.0\nb,7.0\n")) == ["5.0", "7.0"]
    assert answers(read(tmp_path / "q.csv", "question,reference\na,5.0\nb,\nc,v7\n")) == ["5.0", None, "v7"]
    assert answers(read(tmp_path / "q.csv", "question,reference\na,nan\nb,bread\n")) == ["nan", "bread"]
    lines = '{"question": "a", "reference": "5.0"}\n{"question": "b", "reference": null}'
    assert answers(read(tmp_path / "q.jsonl", lines)) == ["5.0", None]
    assert answers(read(tmp_path / "q.jsonl", '{"question": "a", "reference": 1e300}\n{"question": "b"}')) == [
        "1e+300", None,
    ]  # fmt: skip
    assert answers(read(tmp_path / "q.jsonl", '{"question": "a", "reference": true}\n{"question": "b"}')) == [
        "True", None,
    ]  # fmt: skip


def test_a_frame_of_pandas_is_read_as_it_was_meant(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame({"question": ["a", "b"], "reference": [5, None]})
    frame.to_csv(tmp_path / "q.csv")  # with its index, as it is by default
    frame.to_json(tmp_path / "q.jsonl", orient="records", lines=True)
    frame.to_json(tmp_path / "q.json", orient="records")
    for name in ("q.csv", "q.jsonl", "q.json"):
        assert [(q.reference, q.metadata) for q in read_questions(tmp_path / name)] == [("5", {}), (None, {})]
