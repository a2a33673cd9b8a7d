"""Prompt templates: Jinja files with a `system` and a `user` block, checked before any call is paid for.

A user's folder overrides the built-in ones by file name. Every template gets `domain` and `question`; what else it may
use depends on its name (see `VARIABLES`). A variable that its role does not get is refused when the template is loaded.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.meta
import jinja2.sandbox

from meteor_agents.errors import TemplateError
from meteor_agents.messages import Message
from meteor_agents.models import ChatMessage

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
"""Template name -> the variables that it may use. `question` has id, title, question, reference, reasoning, metadata."""

BLOCKS = ("system", "user")
SUFFIX = ".jinja"


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Public attributes of our own immutable messages need no further look; prompts read little else."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return (isinstance(obj, Message) and attr[:1] != "_") or super().is_safe_attribute(obj, attr, value)


class Source(NamedTuple):
    """One template's file, and a hash of its text."""

    path: Path
    text: str
    hash: str


class Templates:
    """The templates of a run, by name. Raises `TemplateError` at once for anything that would fail later."""

    def __init__(self, builtin: Path, override: Path | None = None) -> None:
        self._environment = _Sandbox(
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
        )
        if override is not None:
            _check_folder(override)
        self._sources = {name: _source(name, builtin, override) for name in VARIABLES}
        self._compiled = {name: self._compile(name, source) for name, source in self._sources.items()}

    def render(self, name: str, /, **variables: Any) -> tuple[ChatMessage, ...]:
        """The chat messages of template `name`: its system block, if it has a non-empty one, then its user block."""
        template = self._compiled[name]
        messages: list[ChatMessage] = []
        context = template.new_context(variables)
        for block in BLOCKS:
            if block not in template.blocks:
                continue
            try:
                text = "".join(template.blocks[block](context)).strip()
            except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
                raise TemplateError(
                    f"{self._sources[name].path}: block {block!r} cannot be rendered: {error}"
                ) from error
            if text:
                messages.append(ChatMessage(role="system" if block == "system" else "user", content=text))
        if not messages or messages[-1].role != "user":
            raise TemplateError(f"{self._sources[name].path}: the user block is empty for this question")
        return tuple(messages)

    def source(self, name: str) -> Source:
        if name not in self._sources:
            near = difflib.get_close_matches(name, self._sources, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(self._sources)}"
            raise TemplateError(f"no prompt template is named {name!r}; {hint}")
        return self._sources[name]

    def hashes(self) -> dict[str, str]:
        return {name: source.hash for name, source in self._sources.items()}

    def _compile(self, name: str, source: Source) -> jinja2.Template:
        try:
            tree = self._environment.parse(source.text)
            template = self._environment.from_string(source.text)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{source.path}, line {error.lineno}: {error.message}") from error
        unknown = sorted(jinja2.meta.find_undeclared_variables(tree) - VARIABLES[name])
        if unknown:
            known = ", ".join(sorted(VARIABLES[name]))
            raise TemplateError(f"{source.path}: unknown variable {unknown[0]!r}; {name} may use {known}")
        if "user" not in template.blocks:
            raise TemplateError(f"{source.path}: there is no {{% block user %}}; a prompt needs one")
        extra = sorted(set(template.blocks) - set(BLOCKS))
        if extra:
            raise TemplateError(f"{source.path}: unknown block {extra[0]!r}; a prompt has the blocks system and user")
        return template


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
