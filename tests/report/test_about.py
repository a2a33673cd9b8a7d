"""What the page's head says of a run: models, seeds, settings, times and the version."""

from __future__ import annotations

from pathlib import Path

import pytest

from meteor_agents.report import About, read_about
from meteor_agents.version import VERSION
from tests.report.test_report import page_of, trace, write_traces

CONFIG = """
name: mine
domain: sums
questions: {path: /data/questions.jsonl, seed: 3}
student: {backend: transformers, model: /models/small/, sampling: {seed: 3}}
teacher: {backend: openai, model: org/big, headers: {X-Key: secret-one}}
judge: {verifier: numeric}
evaluate: {models: [{name: rival, headers: {Authorization: secret-two}}]}
training: {seed: 3}
"""


def test_models_seed_and_settings_are_read_and_headers_hidden(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    about = read_about(tmp_path / "config.yaml")
    assert about.domain == "sums"
    assert about.facts == {"student": "small", "teacher": "big", "judge": "verifier numeric", "seeds": "3"}
    assert "path: /data/questions.jsonl" in about.settings
    assert "X-Key: (hidden)" in about.settings
    assert "secret" not in about.settings


def test_seeds_that_differ_are_each_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.replace("training: {seed: 3}", "training: {seed: 4}"))
    assert read_about(tmp_path / "config.yaml").facts["seeds"] == "questions 3, sampling 3, training 4"


@pytest.mark.parametrize("content", ["", "- a list", "key: [", "\x00", "just words", "{" * 3000])
def test_settings_that_cannot_be_read_leave_the_head_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    assert read_about(tmp_path / "config.yaml") == About()
    assert read_about(tmp_path / "nowhere.yaml") == About()


def test_page_says_when_the_run_was_how_long_it_worked_and_which_version_wrote_it(tmp_path: Path) -> None:
    write_traces(tmp_path / "run.db", [trace(n) for n in range(3)])
    about = About("sums", {"student": "small"}, "name: '<script>'\n")
    text = page_of(tmp_path / "run.db", library=None, about=about).read_text()
    assert "<dt>started</dt><dd>20" in text
    assert "<dt>time worked</dt><dd>12 s</dd>" in text
    assert f"by meteor-agents {VERSION}" in text
    assert "name: &#39;&lt;script&gt;&#39;" in text


def test_a_name_that_is_no_unicode_text_does_not_stop_the_page(tmp_path: Path) -> None:
    write_traces(tmp_path / "run.db", [trace(1)])
    text = page_of(tmp_path / "run.db", name="half \ud83d", about=About("half \ud83d")).read_text()
    assert "<h1>half ?</h1>" in text
