from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meteor_agents import prompts
from meteor_agents.cli.commands.prompts import EXAMPLE, check_templates, example_variables
from meteor_agents.errors import TemplateError
from meteor_agents.messages import Attempt, Guide, Guideline, Question, Status, Verdict
from meteor_agents.method.templates import VARIABLES, Templates
from meteor_agents.traces import Turn

BUILTIN = Path(prompts.__file__).parent


def with_file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder


def test_every_builtin_template_renders() -> None:
    check_templates(Templates(BUILTIN), "mathematics", EXAMPLE)


def test_every_quickstart_template_renders() -> None:
    from meteor_agents.assembly.config_file import PRESETS

    check_templates(Templates(BUILTIN, PRESETS / "quickstart" / "prompts"), "SQL", EXAMPLE)


@pytest.mark.parametrize(
    "name", sorted(VARIABLES.keys() - {"student_feedback"})
)  # that one follows the question in a chat
def test_every_builtin_template_shows_the_question(name: str) -> None:
    messages = Templates(BUILTIN).render(name, **example_variables(name, "mathematics", EXAMPLE))
    assert EXAMPLE.question in messages[-1].content
    assert messages[-1].role == "user"


@pytest.mark.parametrize("name", VARIABLES)
def test_what_every_question_shares_comes_first_so_that_servers_can_cache_it(name: str) -> None:
    def rendered(text: str) -> str:
        question = Question(id=text, title=text, question=text, reference=text)
        said = Attempt(text=text, reasoning=text, answer=text, model="m", weights="w")
        verdict = Verdict(status=Status.INCORRECT, explanation=text, guide=text, model="m")
        guide = Guide(explanation=text, guide=text, model="m")
        given: dict[str, Any] = {
            "domain": "mathematics", "question": question, "explanation": text, "guide": text, "critique": text,
            "guideline": Guideline(text=text, model="m", weights="w"), "turns": (Turn(said, verdict, guide),),
            **dict.fromkeys(("previous", "attempt", "answer", "first", "second"), said),
        }  # fmt: skip
        messages = Templates(BUILTIN).render(name, **{variable: given[variable] for variable in VARIABLES[name]})
        return "\n".join(message.content for message in messages)

    one, other = rendered("1111"), rendered("2222")
    shared = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    constant = len(one.replace("1111", ""))
    assert shared > constant / 2
    labels = max(one[shared:].replace("1111", "\n").splitlines(), key=len)
    assert len(labels) < 60, "an instruction after the question would be computed anew for each"


def test_a_users_file_overrides_the_builtin_one_and_changes_only_its_hash(tmp_path: Path) -> None:
    folder = with_file(tmp_path, "student_attempt.jinja", "{% block user %}Q: {{ question.question }}{% endblock %}")
    mine, builtin = Templates(BUILTIN, folder), Templates(BUILTIN)
    assert [m.content for m in mine.render("student_attempt", domain="x", question=EXAMPLE)] == [
        "Q: What is half of 42?"
    ]
    changed = [name for name, hash_ in mine.hashes().items() if hash_ != builtin.hashes()[name]]
    assert changed == ["student_attempt"]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("student_attempt.jinja", "{% block user %}{{ qestion }}{% endblock %}", "unknown variable 'qestion'"),
        ("student_attempt.jinja", "{% block user %}{{ guide }}{% endblock %}", "unknown variable 'guide'"),
        ("student_attempt.jinja", "{% block user %}{% if %}{% endblock %}", "line 1"),
        ("student_attempt.jinja", "{{ question.question }}", "no {% block user %}"),
        ("student_attempt.jinja", "{% block user %}x{% endblock %}{% block sytem %}{% endblock %}", "block 'sytem'"),
        ("student_atempt.jinja", "x", "did you mean student_attempt.jinja?"),
    ],
)
def test_a_bad_template_is_refused_when_it_is_loaded(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(TemplateError) as refused:
        Templates(BUILTIN, with_file(tmp_path, name, text))
    assert complaint in str(refused.value)
    assert name in str(refused.value)


def test_a_missing_folder_of_templates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="is not a folder"):
        Templates(BUILTIN, tmp_path / "nowhere")


def test_an_unknown_field_of_the_question_is_said_with_the_file(tmp_path: Path) -> None:
    folder = with_file(tmp_path, "student_attempt.jinja", "{% block user %}{{ question.body }}{% endblock %}")
    with pytest.raises(TemplateError, match=r"student_attempt\.jinja: block 'user' cannot be rendered"):
        Templates(BUILTIN, folder).render("student_attempt", domain="x", question=EXAMPLE)


def test_a_template_cannot_reach_into_python(tmp_path: Path) -> None:
    escape = "{% block user %}{{ question.__class__.__mro__ }}{% endblock %}"
    with pytest.raises(TemplateError):
        Templates(BUILTIN, with_file(tmp_path, "student_attempt.jinja", escape)).render(
            "student_attempt", domain="x", question=EXAMPLE
        )
