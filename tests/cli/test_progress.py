from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from meteor_agents.backends.scripted import ScriptedModel
from meteor_agents.calls.tally import Tally
from meteor_agents.calls.throttled import Throttled
from meteor_agents.cli.progress import JsonLog, LiveView, PlainLines
from meteor_agents.cli.tables import calls_table
from meteor_agents.errors import StoreError
from meteor_agents.events import (
    CallFailed,
    CallFinished,
    CallRetried,
    CallStarted,
    Draining,
    Event,
    QuestionFinished,
    QuestionLate,
    StageFinished,
    StageStarted,
    TrainingProgress,
    UpdateFinished,
)
from meteor_agents.settings.roles import Limits


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def told(tally: Tally, clock: Clock) -> None:
    """Ten seconds of a stage: two calls done, one reused, one failed, one under way; two questions settled."""
    events: list[Event] = [
        StageStarted("refine", 10, 4),
        CallStarted("student", "q1"),
        CallStarted("student", "q2"),
        CallFinished("student", False, 1.0, 100, 20, "q1", 0.25),
        CallFinished("student", True, 0.0, 0, 0),
        CallRetried("judge", "busy", 1.0),
        CallStarted("judge", "q1"),
        CallFinished("judge", False, 1.0, 50, 10, "q1"),
        CallStarted("judge", "q3"),
        CallFailed("judge", "gone", "q3"),
        QuestionFinished("refine", "q1", "accepted", 2),
        QuestionFinished("refine", "q3", "failed", 1),
        QuestionLate("refine", "q4", "no reply"),
    ]
    for event in events:
        tally.on_event(event)
    clock.now += 10


def test_the_tally_says_by_role_what_was_done_and_what_is_under_way() -> None:
    clock = Clock()
    tally = Tally(clock)
    tally.limited["student"] = Throttled(ScriptedModel(["x"]), Limits(concurrency=8))
    told(tally, clock)
    now = tally.progress()
    assert (now.stage, now.questions, now.done, now.late) == ("refine", 10, 6, 1)
    assert (now.outcomes, now.accepted_at_try) == ({"accepted": 1, "failed": 1}, {2: 1})
    assert now.seconds_left == 20, "two in ten seconds, four to go"
    student, judge = now.roles
    assert (student.made, student.reused, student.in_flight) == (1, 1, 1)
    assert (student.input_tokens, student.output_tokens, student.usd) == (100, 20, 0.25)
    assert (student.slowest_question, student.slowest_s) == ("q2", 10)
    assert (student.concurrency, student.concurrency_why) == (8, "the limit set")
    assert (judge.made, judge.failed, judge.retried, judge.in_flight, judge.usd) == (1, 1, 1, 0, None)
    assert tally.in_flight() == 1


def test_several_calls_of_one_question_are_counted_each_and_forgotten_with_it() -> None:
    """As best-of-n has them: 4 draws of each of two questions, one answered, and the others cancelled with the question."""
    clock = Clock()
    tally = Tally(clock)
    tally.on_event(StageStarted("self-train", 2, 0))
    for question in ("q1", "q2"):
        for _ in range(4):
            tally.on_event(CallStarted("student", question))
    clock.now += 3
    tally.on_event(CallFinished("student", False, 3.0, 10, 2, "q1"))
    (student,) = tally.progress().roles
    assert (student.in_flight, student.slowest_question, student.slowest_s) == (7, "q1", 3.0)
    tally.on_event(QuestionFinished("self-train", "q1", "failed", 1))
    (student,) = tally.progress().roles
    assert (student.in_flight, student.slowest_question) == (4, "q2")
    for _ in range(4):
        tally.on_event(CallFinished("student", False, 3.0, 10, 2, "q2"))
    assert tally.in_flight() == 0


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    tally = Tally(clock)
    for _ in range(60):
        for _ in range(5):
            tally.on_event(CallFinished("judge", False, 0.1, 1, 1, "q"))
        clock.now += 1
        tally.progress()
    now = tally.progress().roles[0]
    assert (now.calls_per_s, now.calls_last_minute) == (5, 300)


def test_plain_lines_tell_each_kind_of_trouble_once_in_a_while() -> None:
    out, clock = io.StringIO(), Clock()
    lines = PlainLines(out, clock)
    for second in range(25):
        lines.on_event(CallRetried("judge", f"busy {second}", 1.0))
        clock.now += 1
    said = out.getvalue().splitlines()
    assert said == [
        "judge: trying again in 1.0 s: busy 0",
        "judge: trying again in 1.0 s: busy 10 (and 9 more like it since the last line)",
        "judge: trying again in 1.0 s: busy 20 (and 9 more like it since the last line)",
    ]


def test_without_a_terminal_there_is_one_line_at_a_time_and_it_says_what_is_under_way_and_for_how_long() -> None:
    """Beam search: calls that take minutes."""
    clock, out = Clock(), io.StringIO()
    tally, lines = Tally(clock), PlainLines(out, clock)
    for event in (StageStarted("self-train", 64, 0), CallStarted("student", "q1"), CallStarted("student", "q2")):
        tally.on_event(event)
    for second in range(200):
        if second == 100:
            tally.on_event(CallFinished("student", False, 100.0, 100, 20, "q1", 0.0))
        clock.now += 1
        lines.on_event(tally.progress())
    assert out.getvalue().splitlines() == [
        "self-train: 0 of 64; student: 2 in flight, the oldest q1 for 10 s, 0 done, 0 of them in the last minute",
        "self-train: 0 of 64; student: 2 in flight, the oldest q1 for 1 min 10 s, 0 done, 0 of them in the last minute",
        "self-train: 0 of 64; student: 1 in flight, the oldest q2 for 1 min 41 s, 1 done, 1 of them in the last minute, "
        "tokens 100/20",
        "self-train: 0 of 64; student: 1 in flight, the oldest q2 for 2 min 41 s, 1 done, 0 of them in the last minute, "
        "tokens 100/20",
    ]


@pytest.mark.parametrize("live", [True, False])
def test_both_views_show_the_stage_and_every_role(live: bool) -> None:
    clock, out = Clock(), io.StringIO()
    tally = Tally(clock)
    told(tally, clock)
    view = PlainLines(out, clock)
    if live:
        with LiveView(Console(file=out, force_terminal=True, width=200), clock) as view_live:
            view_live.on_event(StageStarted("refine", 10, 4))
            view_live.on_event(tally.progress())
            view_live.on_event(Draining(3))
    else:
        view.on_event(StageStarted("refine", 10, 4))
        clock.now += 10
        view.on_event(tally.progress())
        view.on_event(Draining(3))
    said = out.getvalue()
    for part in ("refine", "student", "judge", "100/20", "0.2500", "q2", "no price", "3 calls in flight", "1 failed"):
        assert part in said, part


def test_an_update_that_trains_beside_conversations_does_not_hide_them() -> None:
    clock, out = Clock(), io.StringIO()
    tally = Tally(clock)
    told(tally, clock)
    console = Console(file=out, force_terminal=True, width=200, height=40)
    with LiveView(console, clock) as view:
        view.on_event(StageStarted("refine", 10, 4))
        view.on_event(TrainingProgress("refine-r1", 3, 8, 1.25, 1e-4, 310.0, 20.0))
        out.truncate(0)
        view.on_event(tally.progress())
        together = out.getvalue()
        view.on_event(UpdateFinished("refine-r1", 8, 1.0, 20.0, True, ""))
        out.truncate(0)
        view.on_event(tally.progress())
        after = out.getvalue()
    for part in ("refine-r1", "loss 1.25", "20 s left", "student", "judge"):
        assert part in together, part
    assert "loss" not in after
    assert "judge" in after


def test_the_log_holds_sums_of_calls_and_every_other_event(tmp_path: Path) -> None:
    clock = Clock()
    tally = Tally(clock)
    with JsonLog(tmp_path / "log.jsonl", clock) as log:
        for _ in range(5):
            told(tally, clock)
            log.on_event(CallStarted("judge", "q1"))
            log.on_event(CallFinished("judge", False, 1.0, 50, 10, "q1"))
            log.on_event(QuestionFinished("refine", "q1", "accepted", 2))
            log.on_event(tally.progress())
            log.on_event(tally.progress())  # too soon after the last
        log.on_event(StageFinished("refine", 1.0, "done"))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == [*["QuestionFinished", "Progressed"] * 5, "StageFinished"]
    assert {role["role"]: role["made"] for role in lines[1]["roles"]} == {"student": 1, "judge": 1}


def test_a_log_that_cannot_be_written_is_said_in_words() -> None:
    log = JsonLog(Path("/dev/full"))
    with pytest.raises(StoreError, match="/dev/full cannot be written: No space left on device"):
        log.on_event(StageStarted("refine", 1, 0))
    log.__exit__(None, None, None)


def test_refused_and_filtered_replies_are_shown_by_role_where_there_are_any() -> None:
    nothing = {"made": 3, "reused": 0, "retried": 0, "failed": 0, "refused": 0, "filtered": 0}
    quiet = {"calls": {"student": nothing, "teacher": nothing}, "tokens": {}}
    assert [column.header for column in calls_table(quiet).columns][1:5] == ["made", "reused", "retried", "failed"]
    told = calls_table({"calls": {"student": nothing, "teacher": {**nothing, "filtered": 2}}, "tokens": {}})
    filtered = next(column for column in told.columns if column.header == "filtered")
    assert [str(cell) for cell in filtered.cells] == ["0", "2"]
