"""People's labels: reading them, and agreement with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from meteor_agents.errors import SettingsError
from meteor_agents.evaluation.human_labels import human_agreement, read_labels


def test_agreement_with_people_counts_chance_out_and_errors_apart() -> None:
    pairs: list[tuple[str | int, str | float | None]] = []
    pairs += [("correct", "correct")] * 20 + [("correct", "incorrect")] * 5
    pairs += [("incorrect", "correct")] * 10 + [("incorrect", "incorrect")] * 15 + [("correct", None)] * 2
    found = human_agreement("judge", pairs, unknown=3)
    assert (found.labels, found.unknown, found.judge_errors) == (55, 3, 2)
    assert found.kappa == pytest.approx(0.4)
    assert found.confusion == {
        "correct": {"correct": 20, "incorrect": 5},
        "incorrect": {"correct": 10, "incorrect": 15},
    }
    scored = human_agreement("judge", [(n, n + 0.4) for n in range(1, 9)], unknown=0)
    assert scored.correlation is not None
    assert scored.correlation.value == pytest.approx(1)


def test_labels_are_read_from_jsonl_and_csv(tmp_path: Path) -> None:
    rows = ['{"id": "q1", "label": "Correct", "reply": "2"}', "", '{"id": "q2", "label": "incorrect"}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "b.csv").write_text("id,label,reply\nq1,7,\nq2,3,some words\n")
    words, scores = (read_labels(tmp_path / name) for name in ("a.jsonl", "b.csv"))
    assert [(label.id, label.label, label.reply) for label in words] == [
        ("q1", "correct", "2"),
        ("q2", "incorrect", None),
    ]
    assert [(label.label, label.reply) for label in scores] == [(7, None), (3, "some words")]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"id": "q1", "label": "maybe"}', "line 1 .* neither correct nor incorrect"),
        ('{"id": "q1", "label": 11}', "from 1 to 10"),
        ('{"label": "correct"}', "line 1 .* id"),
        ('{"id": "q1", "label": "correct"}\n{"id": "q2", "label": 3}', "line 2 .* scores and words"),
        ("nonsense", "line 1 .* not JSON"),
        ("[" * 5000, "line 1 .* cannot be read"),
        ('{"id": "q1", "label": "correct", "n": ' + "9" * 5000 + "}", "line 1 .* cannot be read"),
        ('{"id": "q1", "label": "correct", "reply": "x \\ud83d"}', "line 1 .* cannot be read"),
        ('{"id": "q1", "label": "²"}', "neither correct nor incorrect"),
        ("[1]", "must be a JSON object"),
        ("", "holds no label"),
    ],
)
def test_a_mistake_in_a_file_of_labels_is_named_with_its_line(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "labels.jsonl").write_text(content)
    with pytest.raises(SettingsError, match=complaint):
        read_labels(tmp_path / "labels.jsonl")


def test_newlines_inside_a_csv_cell_and_unusual_line_separators_stay_in_the_reply(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,label,reply\nq1,7,"two\nlines"\n')
    (tmp_path / "b.jsonl").write_text('{"id": "q1", "label": 7, "reply": "two\u2028lines"}\n')
    assert [read_labels(tmp_path / name)[0].reply for name in ("a.csv", "b.jsonl")] == ["two\nlines", "two\u2028lines"]


def test_a_long_csv_cell_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,label,reply\nq1,7," + "x" * 200_000 + "\n")
    (label,) = read_labels(tmp_path / "a.csv")
    assert len(label.reply or "") == 200_000
