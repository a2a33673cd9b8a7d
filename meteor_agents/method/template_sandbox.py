"""Jinja's sandbox with bounds: a template is a program of someone else's, and may neither run for long nor fill memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import Any

import jinja2
import jinja2.filters
import jinja2.runtime
import jinja2.sandbox
import jinja2.visitor
from jinja2 import nodes

MOST_CHARACTERS = 2_000_000
"""The most characters of one text, and items of one list. No model reads a longer prompt."""
CHECKED_AT_ONCE = 32
"""Pieces of a text that are made before their length is checked; none is longer than `MOST_CHARACTERS`."""
MOST_STEPS = 100_000
"""Passes through loops and calls in one rendering."""
MOST_WIDTH = 10_000
"""The largest width that a text can be padded to."""
MOST_BITS = 1024
"""The most bits of a whole number."""
DROPPED = ("batch", "center", "slice", "urlize", "wordwrap", "xmlattr")
"""Filters whose arguments decide the length of a text or a list."""
_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(?:\*|\d{5})")
_WIDE_FORMAT = re.compile(r"\{[^{}]*(?:\d{5}|\{)")


class Unbounded(jinja2.TemplateRuntimeError):
    """The template asks for more than the bounds allow."""


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A template in it raises `Unbounded` for a text, a list or a number that is too large, and for too many steps.

    A mapping's keys come before its methods, so that a column of the data may be called `items`.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._steps = 0
        self.globals = {**self.globals, "range": self._range}
        self.globals.pop("lipsum", None)
        own = {"format": _format, "indent": _indent, "join": _join, "replace": _replace, "each_step": self._each}
        self.filters = {name: known for name, known in self.filters.items() if name not in DROPPED} | own

    def begin(self) -> None:
        """A new rendering begins, with all its steps."""
        self._steps = 0

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """The pieces of a block, a macro or a `set` as one text."""
        found: list[str] = []
        size, left = 0, iter(pieces)
        while some := list(islice(left, CHECKED_AT_ONCE)):
            size += sum(map(len, some))
            _check(size)
            found += some
        return "".join(found)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A field of a mapping, else what Jinja's sandbox lets through."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        if isinstance(obj, str) and attribute in ("format", "format_map") and _WIDE_FORMAT.search(obj):
            raise Unbounded(f"{obj[:60]!r} asks for a width that is too large, or that is not written in it")
        return super().getattr(obj, attribute)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """`+`, `*`, `**` and `%` where the result is not too large."""
        if operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
            _check(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            _check_percent(left)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * abs(right))
        elif operator == "*":
            for sized, times in ((left, right), (right, left)):
                if isinstance(sized, Sized) and isinstance(times, int):
                    _check(len(sized) * max(0, times))
            if isinstance(left, int) and isinstance(right, int):
                _check_bits(left.bit_length() + right.bit_length())
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls of macros, functions and methods of texts, each a step."""
        __self._spend(1)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_method(owner, str(getattr(__obj, "__name__", "")), args)
        return super().call(__context, __obj, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _Bounding().visit(tree)  # type: ignore[no-any-return]  # the visitor does not say that it keeps the type

    def _range(self, *bounds: int) -> range:
        found = range(*bounds)
        if len(found) > MOST_STEPS:
            raise Unbounded(f"a range of more than {MOST_STEPS:,} numbers")
        self._spend(len(found))
        return found

    def _each(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._spend(1)
            yield item

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MOST_STEPS:
            raise Unbounded(f"it takes more than {MOST_STEPS:,} steps (passes through loops, and calls)")


class _Bounding(jinja2.visitor.NodeTransformer):
    """Counts the steps of every loop, and writes `a ~ b` as the sum of two texts."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """The loop over the same items, counted."""
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.iter = nodes.Filter(node.iter, "each_step", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """The same text by `+`, which is checked."""
        node = self.generic_visit(node)  # type: ignore[assignment]
        first, *others = (nodes.Filter(part, "string", [], [], None, None, lineno=node.lineno) for part in node.nodes)
        joined: nodes.Expr = first
        for part in others:
            joined = nodes.Add(joined, part, lineno=node.lineno)
        return joined


def _check(size: int) -> None:
    if size > MOST_CHARACTERS:
        raise Unbounded(f"a text or a list is longer than {MOST_CHARACTERS:,}")


def _check_bits(bits: int) -> None:
    if bits > MOST_BITS:
        raise Unbounded(f"a number takes more than {MOST_BITS:,} bits")


def _check_percent(text: str) -> None:
    if _WIDE_PERCENT.search(text):
        raise Unbounded(f"{text[:60]!r} asks for a width that is too large, or that is not written in it")


def _check_method(owner: str, name: str, args: tuple[Any, ...]) -> None:
    """Raises `Unbounded` where a method of a text would make a much longer one."""
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        if any(isinstance(width, int) and width > MOST_WIDTH for width in args):
            raise Unbounded(f"{name}: a width of more than {MOST_WIDTH:,}")
        _check(len(owner) * max([1, *(width for width in args if isinstance(width, int))]) if name == "expandtabs" else 0)
    elif name == "replace" and len(args) > 1:
        _check(_replaced(owner, *args[:2]))
    elif name == "join" and args and isinstance(args[0], list | tuple):
        _check(sum(len(str(item)) + len(owner) for item in args[0]))


def _replaced(text: str, old: Any, new: Any) -> int:
    """The length of `text` with every `old` replaced."""
    return len(text) + text.count(str(old)) * len(str(new))


def _format(text: str, *args: Any, **kwargs: Any) -> str:
    _check_percent(str(text))
    return jinja2.filters.do_format(text, *args, **kwargs)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _check(len(str(text)) + (str(text).count("\n") + 1) * (len(width) if isinstance(width, str) else width))
    return jinja2.filters.do_indent(text, width, first, blank)


@jinja2.pass_eval_context
def _join(context: nodes.EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    items = list(value)
    _check(sum(len(str(item)) + len(str(d)) for item in items))
    return jinja2.filters.sync_do_join(context, items, d, attribute)


@jinja2.pass_eval_context
def _replace(context: nodes.EvalContext, text: str, old: str, new: str, count: int | None = None) -> str:
    _check(_replaced(str(text), old, new))
    return jinja2.filters.do_replace(context, text, old, new, count)
