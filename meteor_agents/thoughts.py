"""A reasoning model's thoughts, told apart from its reply.

Servers disagree: some hand the thoughts out in a field of their own, others leave them in the text, with or without the
mark that opened them. `split_thoughts` is the one place that reads such marks. Its rules:

1. A thought runs from an opening mark to the next closing mark of the same name (of any name, where none of the same name
   follows). Known are `<think>`, `<thinking>`, `<thought>`, `<reasoning>`, also with a prefix as in `<seed:think>`,
   `[THINK]`, and a few special tokens; upper and lower case are the same.
2. A closing mark that nothing opened ends a thought that the prompt had opened: everything before it is thought.
3. An opening mark that nothing closes opens a thought that was cut, so that everything after it is thought, but only where
   it begins the reply or a line. In the middle of a line it is a word of the reply.
4. Outside a thought, a mark is only mentioned, and stays where it is, inside a code fence, inline code, a quotation on one
   line, or a JSON object. Within a thought, a closing mark is mentioned only if quotes or backticks enclose just it.
5. The channels of the harmony format (`<|channel|>analysis<|message|>`) are recognised by their names: `final` is the
   reply. The same holds where its special tokens were left out: `analysis...assistantfinal...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from meteor_agents.json_objects import object_spans

_NAME = r"(?:\w{1,16}:)?(?:think|thinking|thought|reasoning)"
_MARK = re.compile(
    rf"</?{_NAME}>|\[/?THINK\]|◁/?think▷"
    r"|<\|(?:begin_of_thought|end_of_thought|START_THINKING|END_THINKING)\|>|<\|channel>thought|<channel\|>",
    re.IGNORECASE,
)
_SPECIAL_CLOSERS = ("<|end", "<channel")
_CHANNEL = re.compile(
    r"(?:<\|start\|>\s?assistant)?<\|channel\|>\s?(?P<name>\w{1,16})(?:[^<\n]|<\|constrain\|>){0,200}<\|message\|>"
)
_CHANNEL_ENDS = re.compile(r"<\|(?:end|return|call)\|>")
_BARE_CHANNEL = re.compile(r"assistant\s?(final|analysis|commentary)")
_FENCE_LINE = re.compile(r"^[ \t]{0,3}(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_ON_ONE_LINE = re.compile(r'`[^`\n]+`|"[^"\n]*"|“[^“”\n]*”')
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’"}


class _Mark(NamedTuple):
    start: int
    end: int
    name: str
    closes: bool


def split_thoughts(text: str, opened: bool = False) -> tuple[str, str]:
    """The thoughts and the reply, by the rules at the top of this file. Takes time in proportion to the text's length.

    `opened`: the chat template has opened a thought already, so that `text` begins within it. Several thoughts come back
    as one text, with a blank line between two. Without any thought the reply is `text`, unchanged.

    >>> split_thoughts("<think>6 x 7</think>\\n42")
    ('6 x 7', '42')
    >>> split_thoughts("It is 6 x 7.</think>42")
    ('It is 6 x 7.', '42')
    >>> split_thoughts("The tag `<think>` opens a thought.")
    ('', 'The tag `<think>` opens a thought.')
    """
    if not opened and _holds_no_mark(text):
        return "", text
    channels = _by_channel(text, opened)
    if channels is not None:
        return channels
    marks = [_mark(found) for found in _MARK.finditer(text)]
    if not marks and not opened:
        return "", text
    thoughts, reply = _by_marks(text, marks, opened)
    if not thoughts and len(reply) == 1:
        return "", text
    return _joined(thoughts), _closed_up(reply)


def _holds_no_mark(text: str) -> bool:
    """Whether a text certainly holds no mark: most replies do not, and this is far cheaper than looking for each."""
    if "<" in text or "◁" in text or "think]" in text.lower():
        return False
    return not text.lstrip().startswith(("analysis", "assistant"))


def _by_marks(text: str, marks: list[_Mark], opened: bool) -> tuple[list[str], list[str]]:
    """The pieces of thought and the pieces of reply, in order."""
    closers = [mark for mark in marks if mark.closes and not _enclosed(text, mark)]
    last_closing = {mark.name: mark.start for mark in closers}
    last_closing_any = closers[-1].start if closers else -1
    mentioned = _Spans(text if marks else "")
    thoughts: list[str] = []
    reply: list[str] = []
    thinking, awaited = opened, ""  # the name of the mark that ends the thought; empty: any
    begin = 0
    for mark in marks:
        if thinking:
            if mark.closes and awaited in ("", mark.name) and not _enclosed(text, mark):
                thoughts.append(text[begin : mark.start])
                thinking, begin = False, mark.end
            elif mark is marks[0] and not mark.closes and not text[: mark.start].strip():
                begin = mark.end  # the model repeats the mark that its prompt ended with
        elif mentioned.hold(mark.start) or _enclosed(text, mark):
            continue
        elif mark.closes:
            thoughts += [*reply, text[begin : mark.start]]
            reply, begin = [], mark.end
        elif last_closing_any > mark.start or _begins_a_line(text, mark):
            reply.append(text[begin : mark.start])
            awaited = mark.name if last_closing.get(mark.name, -1) > mark.start else ""
            thinking, begin = True, mark.end
    (thoughts if thinking else reply).append(text[begin:])
    return thoughts, reply


def _by_channel(text: str, opened: bool) -> tuple[str, str] | None:
    """Thoughts and reply of a text in harmony's channels; None for any other text."""
    heads = list(_CHANNEL.finditer(text))
    if heads:
        mentioned = _Spans(text)
        heads = [head for head in heads if not mentioned.hold(head.start())]
    if heads:
        thoughts, reply = [_CHANNEL_ENDS.sub("", text[: heads[0].start()])], [""]
        for head, following in zip(heads, [*heads[1:], None], strict=True):
            content = text[head.end() : following.start() if following else len(text)]
            (reply if head["name"] == "final" else thoughts).append(_CHANNEL_ENDS.sub("", content))
        return _joined(thoughts), _closed_up(reply)
    begun = text.lstrip()
    if not (opened or begun.startswith(("analysis", "assistantfinal", "assistantanalysis"))):
        return None
    bare = [found for found in _BARE_CHANNEL.finditer(begun) if found[1] == "final"]
    if bare:
        thought = begun[: bare[-1].start()].removeprefix("assistant").removeprefix("analysis")
        return thought.strip(), begun[bare[-1].end() :].lstrip()
    cut = re.match(r"(?:assistant)?analysis(?=[A-Z\"'])", begun)
    return (begun[cut.end() :].strip(), "") if cut else None


def _mark(found: re.Match[str]) -> _Mark:
    mark = found[0].lower()
    name = "special" if "|" in mark else mark.strip("<>[]◁▷/")
    return _Mark(found.start(), found.end(), name, mark[1] == "/" or mark.startswith(_SPECIAL_CLOSERS))


def _enclosed(text: str, mark: _Mark) -> bool:
    """Quotes or backticks stand directly around the mark."""
    before, after = text[mark.start - 1 : mark.start], text[mark.end : mark.end + 1]
    return bool(after) and _QUOTES.get(before) == after


def _begins_a_line(text: str, mark: _Mark) -> bool:
    line = text.rfind("\n", max(0, mark.start - 80), mark.start) + 1
    return not text[line : mark.start].strip() if line or mark.start <= 80 else False


class _Spans:
    """The parts of a text in which a mark is only mentioned. To be asked with rising positions."""

    def __init__(self, text: str) -> None:
        found = [*_fences(text), *((hit.start(), hit.end()) for hit in _ON_ONE_LINE.finditer(text))]
        found += [(span.start, span.end) for span in object_spans(text) if span.closed]
        self._spans = _merged(found)
        self._at = 0

    def hold(self, position: int) -> bool:
        """Whether the position lies in one of them."""
        while self._at < len(self._spans) and self._spans[self._at][1] <= position:
            self._at += 1
        return self._at < len(self._spans) and self._spans[self._at][0] <= position


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _fences(text: str) -> Iterator[tuple[int, int]]:
    """Code fences that are closed: by a line of at least as many of the same characters, and nothing else."""
    opening: re.Match[str] | None = None
    for line in _FENCE_LINE.finditer(text):
        if opening is None:
            opening = line
        elif line[1].startswith(opening[1]) and not line[2].strip():
            yield opening.start(), line.end()
            opening = None
        elif line[2].strip():
            opening = line  # the one before was never closed


def _joined(thoughts: Iterable[str]) -> str:
    return "\n\n".join(stripped for thought in thoughts if (stripped := thought.strip()))


def _closed_up(pieces: Iterable[str]) -> str:
    """The reply without its thoughts: the white space after a thought goes where there is some before it."""
    reply = ""
    for piece in pieces:
        reply += piece.lstrip() if not reply or reply[-1].isspace() else piece
    return reply
