"""Prompt templates: Jinja files with a `system` and a `user` block, checked before any call is paid for.

A user's folder overrides the built-in ones by file name. Every template gets `domain`, `question` and `fence`; what else it
may use depends on its name (see `VARIABLES`). A variable that its role does not get is refused when the template is loaded.

Folders of prompts are shared between people, so a template is not trusted: it gets plain values only (texts, numbers, lists
and mappings made for it), and a sandbox with bounds on time and memory is a second wall behind that.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.meta

from meteor_agents.errors import TemplateError
from meteor_agents.messages import Message
from meteor_agents.method.template_sandbox import Sandbox
from meteor_agents.models import ChatMessage
from meteor_agents.safe_text import clean
from meteor_agents.traces import Turn

VARIABLES: Mapping[str, frozenset[str]] = {
    "student_guideline": frozenset({"domain", "question"}),
    "student_attempt": frozenset({"domain", "question"}),
    "student_revise": frozenset({"domain", "question", "previous", "explanation", "guide", "turns"}),
    "student_feedback": frozenset({"domain", "question", "previous", "explanation", "guide"}),
    "student_critique": frozenset({"domain", "question", "attempt"}),
    "student_redraft": frozenset({"domain", "question", "previous", "critique"}),
    "teacher_answer": frozenset({"domain", "question", "guideline"}),
    "teacher_guide": frozenset({"domain", "question", "attempt", "explanation"}),
    "judge_verdict": frozenset({"domain", "question", "attempt"}),
    "judge_score": frozenset({"domain", "question", "answer"}),
    "judge_compare": frozenset({"domain", "question", "first", "second"}),
}
"""Template name -> the variables that `render` is given for it. `question` has id, title, question, reference, reasoning and
metadata."""

FENCE = "fence"
"""A further variable of every template, made by `render`: a line to put around quoted text, which that text cannot hold."""

BLOCKS = ("system", "user")
SUFFIX = ".jinja"
_ENCODER = json.JSONEncoder(sort_keys=True)


class Source(NamedTuple):
    """One template's file, and a hash of its text."""

    path: Path
    text: str
    hash: str


class Templates:
    """The templates of a run, by name. Raises `TemplateError` at once for anything that would fail later."""

    def __init__(self, builtin: Path, override: Path | None = None) -> None:
        self._environment = Sandbox(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
        )
        if override is not None:
            _check_folder(override)
        self._sources = {name: _source(name, builtin, override) for name in VARIABLES}
        self._fenced: set[str] = set()
        self._compiled = {name: self._compile(name, source) for name, source in self._sources.items()}

    def render(self, name: str, /, **variables: Any) -> tuple[ChatMessage, ...]:
        """The chat messages of template `name`: its system block, if it has a non-empty one, then its user block.

        Raises `TemplateError` when a block cannot be rendered, or when the user block comes out empty.
        """
        template = self._compiled[name]
        given = {variable: plain(value) for variable, value in variables.items()}
        if name in self._fenced:
            given[FENCE] = fence(given)
        context = template.new_context(given)
        messages: list[ChatMessage] = []
        for block in BLOCKS:
            try:
                self._environment.begin()
                rendered = template.blocks[block](context) if block in template.blocks else ()
                text = clean(self._environment.concat(rendered)).strip()
            except Exception as error:  # a template is a program of the user's: whatever it raises is its fault
                where, what = f"{self._sources[name].path}: block {block!r}", str(error) or type(error).__name__
                raise TemplateError(f"{where} cannot be rendered: {what}") from error
            if text:
                messages.append(ChatMessage(role="system" if block == "system" else "user", content=text))
        if not messages or messages[-1].role != "user":
            raise TemplateError(f"{self._sources[name].path}: the user block is empty for this question")
        return tuple(messages)

    def source(self, name: str) -> Source:
        """The file behind a template. Raises `TemplateError`, with the nearest name, when there is no such template."""
        if name not in self._sources:
            near = difflib.get_close_matches(name, self._sources, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(self._sources)}"
            raise TemplateError(f"no prompt template is named {name!r}; {hint}")
        return self._sources[name]

    def hashes(self) -> dict[str, str]:
        """Template name -> the hash of its text."""
        return {name: source.hash for name, source in self._sources.items()}

    def _compile(self, name: str, source: Source) -> jinja2.Template:
        try:
            tree = self._environment.parse(source.text)
            template = self._environment.from_string(source.text)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{source.path}, line {error.lineno}: {error.message}") from error
        except RecursionError as error:
            raise TemplateError(f"{source.path}: an expression is nested too deeply") from error
        used = jinja2.meta.find_undeclared_variables(tree)
        unknown = sorted(used - VARIABLES[name] - {FENCE})
        if unknown:
            known = ", ".join(sorted(VARIABLES[name] | {FENCE}))
            raise TemplateError(f"{source.path}: unknown variable {unknown[0]!r}; {name} may use {known}")
        if FENCE in used:
            self._fenced.add(name)
        if "user" not in template.blocks:
            raise TemplateError(f"{source.path}: there is no {{% block user %}}; a prompt needs one")
        extra = sorted(set(template.blocks) - set(BLOCKS))
        if extra:
            raise TemplateError(f"{source.path}: unknown block {extra[0]!r}; a prompt has the blocks system and user")
        return template


def plain(value: Any) -> Any:
    """A value as a template gets it: messages and turns as mappings of their fields, lists and mappings
    of plain values, texts and numbers; anything else as its text.

    >>> from meteor_agents.messages import Question
    >>> plain(Question(id="q", question="Why?"))["question"]
    'Why?'
    """
    if isinstance(value, Message):
        return value.model_dump(mode="json")
    if isinstance(value, Turn):
        return {name: plain(field) for name, field in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): plain(field) for key, field in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(value)


def fence(given: Mapping[str, Any]) -> str:
    """A line that no reply in `given` holds, nor could be made to hold, since it is a hash of the replies and the question.

    It depends on nothing else, such as ids or weights: equal prompts have equal fences, so that their calls are shared.
    """
    replies = {name: value["text"] for name, value in given.items() if isinstance(value, dict) and "text" in value}
    content = _ENCODER.encode([given["question"]["question"], replies])
    return f"-----{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _source(name: str, builtin: Path, override: Path | None) -> Source:
    path = builtin / f"{name}{SUFFIX}"
    if override is not None and (override / path.name).exists():
        path = override / path.name
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"{path}: cannot be read: {error}") from error
    return Source(path, text, hashlib.sha256(text.encode()).hexdigest())


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise TemplateError(f"prompts.dir: {folder} is not a folder")
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.stem not in VARIABLES:
            near = difflib.get_close_matches(path.stem, VARIABLES, n=1)
            hint = f"did you mean {near[0]}{SUFFIX}?" if near else f"known: {', '.join(VARIABLES)}"
            raise TemplateError(f"{path}: no prompt has this name; {hint}")
