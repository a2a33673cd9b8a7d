"""Which letter of a multiple choice a text chooses: none if it denies the only one, or leaves several open."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from meteor_agents.verifiers.markup import boxes, composed, single_spaced, tail, unboxed, unmarked, untexted, visible
from meteor_agents.verifiers.wording import AND, CLAUSE_END, LONGEST_CLAUSE, NEGATION, OR, announced, standing

LATIN = r"[A-Za-z0-9_\u00c0-\u024f\u0400-\u04ff]"
"""What may not touch a letter that stands for a choice. Chinese and Japanese, written without blanks, may."""
OPEN, CLOSE = r"[(\[{\"'“‘«„]", r"[)\]}\"'”’»]"
REASONS = (
    r"(?:because|since|as|is|was|and|or|but|due|given|which|not|instead|rather|seems|would|makes|looks|with|weil|da|denn|"
    r"ist|und|oder|car|parce|est|et|ou|porque|ya|es|y|o|non|nicht|потому)"
)
MENTION = re.compile(
    rf"""
      (?<!{LATIN}) {OPEN} [ ]? (?P<bracketed>[A-Ja-j]) [ ]? {CLOSE} (?!{LATIN})
    | (?<! {LATIN} ) (?<! \S[.'’/+&-] ) (?P<bare>[B-HJ] | A(?![ ](?!{REASONS}\b)[a-z])) (?! {LATIN} | ['’/+&-]\w | \.\w )
    """,
    re.VERBOSE,
)
"""A letter in brackets, or a capital alone; the article `A` and the pronoun `I` only in brackets."""
LETTER = re.compile(
    rf"{OPEN}{{0,3}} ?(?:([A-J])|([a-j])(?= ?{CLOSE}|[.:,;] |[.:,;]?$|\n)) ?(?P<closed>{CLOSE}{{0,3}})(?!{LATIN}|['’]\w)",
    re.MULTILINE,
)
ALONE = re.compile(rf"{OPEN}{{0,3}} ?([A-Ja-j]) ?{CLOSE}{{0,3}} ?[.):!,]{{0,2}}")
"""A line that is nothing but a letter: `B`, `(b)`, `b.`."""
OPTION_LINE = re.compile(rf"{OPEN}?([A-J]){CLOSE}?(?:[.):;](?!{LATIN})|(?=,)| ?[—–-](?= ))|([a-j])\)(?= )|\(([a-j])\)(?= )")
"""A letter before the text that it stands for: `B. Paris`, `C) 12`, `(d) none`, `B: because`."""
ANOTHER = re.compile(
    rf"(?: ?(?:,|/|&|\+|;|、|,? ?(?i:{OR}|{AND})(?![a-z]))+ ?| ?)(?:(?i:{OR}|{AND}|option|choice|the) )*"
    rf"(?:{OPEN}{{1,2}}[A-Ja-j] ?{CLOSE}|[B-HJ](?!{LATIN}|['’]\w)|"
    rf"[AI](?!{LATIN}|['’]\w| (?!{REASONS}\b)[a-z])|(?<=[ /,])[a-j](?=[.,;)]|$))"
)
"""What makes of one letter several: `B or C`, `B, C`, `B/C`."""
FILLER = re.compile(
    r"[\s:=*>→-]+|(?:that|it is|it's|the|option|choice|letter|clearly|definitely|probably|likely|therefore|simply|thus|"
    r"number|die|der|das|la|le|el|les|l'option|l'|lettre|letra|opción|буква|вариант|选项|選択肢)(?:\b[ :]*|(?=[A-J(]))",
    re.IGNORECASE,
)
BEFORE = re.compile(
    r"(?:^|[\n.!?:;,=→>—–…-]|\b(?:is|it's|be|was|so|thus|hence|therefore|think|say|guess|believe|choose|chose|pick|select|"
    r"take|with|for|option|choice|letter|answer|go|say|but|only|either|or|and|not|nor|neither|than|of|both|that|ist|wähle|"
    r"nehme|antwort|also|sondern|oder|und|est|c'est|choisis|réponse|donc|mais|ou|et|es|elijo|escojo|opción|respuesta|"
    r"pero|sino|è|é|это|ответ|выбираю|вариант|или|и|а))\W{0,3}$|[\u3040-\u30ff\u3400-\u9fff]\W?$",
    re.IGNORECASE,
)
"""What may stand before a bare letter that stands for a choice: `It is B`, but not `Vitamin C`."""
WRONG_AFTER = re.compile(
    r"[)\]\"'”.]{0,2} ?(?:(?:option|choice)? ?(?:is|was|are|seems|looks|ist|est|es|é|è|cannot|can|must) )?"
    r"(?:clearly |simply |not |be )*"
    r"(?:isn't|can't|wrong|incorrect|false|not|ruled out|eliminated|"
    r"out\b|falsch|nicht|faux|fausse|incorrecta|неверн|неправильн)"
    r"(?! [(\[]?[A-J]\b)|[)\]]?(?:是|は|が)?(?:错|錯|不对|不正确|不正確|間違|誤)",
    re.IGNORECASE,
)
RIGHT_AFTER = re.compile(
    r"[)\]\"'”.]{0,2} ?(?:(?:is|must be|seems|ist|est|es|é|è|—|-) ?)?(?:the |die |la |le |el )?"
    r"(?:correct|right|best|true|answer|richtig|bonne|juste|correcta|правильн|верн|является)|[)\]]?(?:是|が|は)?(?:正|对|對)",
    re.IGNORECASE,
)
CHOSEN_BEFORE = re.compile(
    r"(?:\b(?:choose|chose|pick|picked|select|go with|going with|opt for|settle on|wähle|nehme|choisis|elijo|escojo|"
    r"выбираю|correct (?:one|option|choice) is)|选择?|選ぶ?|選択)(?: (?:option|choice|letter|answer|variante?))? ?\W{0,3}$",
    re.IGNORECASE,
)
MOST_MENTIONS = 200
"""Letters of a text that are looked at, from its end."""
NEAR = 60
"""Characters around a letter that tell how it is meant."""


def chosen_letter(text: str) -> str | None:
    """The letter that a text chooses, in upper case.

    The clearest way of saying it counts: a box, the whole text, an announced answer, a letter called right or chosen, a
    line of its own or before an option's text, and last the only letter that is mentioned and not denied.

    >>> chosen_letter("I would pick B, not A."), chosen_letter("either (A) or (B)")
    ('B', None)
    """
    text = single_spaced(composed(visible(tail(text)))).strip()
    text = standing(unmarked(untexted(text))).replace("$", "")
    if found := boxes(text):
        return only_letter(found[-1].inner)
    text = unboxed(text).strip()
    if whole := ALONE.fullmatch(text, past_filler(text)):
        return whole[1].upper()
    start, _ = announced(text)
    if start is not None:
        return announced_letter(text[start:])
    mentions = deque(MENTION.finditer(text), maxlen=MOST_MENTIONS)
    meant = [match for match in mentions if is_meant(text, match)]
    if letters := {letter_of(match) for match in meant if is_claimed(text, match)}:
        return letters.pop() if len(letters) == 1 else None
    if letters := set(line_letters(text)):
        return letters.pop() if len(letters) == 1 else None
    letters = {letter_of(match) for match in meant}
    open_ = any(ANOTHER.match(text, match.end()) for match in meant)
    return letters.pop() if len(letters) == 1 and not open_ else None


def announced_letter(text: str) -> str | None:
    """The letter at the start of a text, or the only one that its first sentence means."""
    at = past_filler(text)
    found = LETTER.match(text, at)
    if not found or is_article(text, found):
        return only_letter(re.split(r"[.!?] |\n", text[at:], maxsplit=1)[0])
    return None if ANOTHER.match(text, found.end()) else (found[1] or found[2]).upper()


def past_filler(text: str) -> int:
    """Where the words end that may stand before a letter, such as `clearly option`."""
    at = 0
    while filler := FILLER.match(text, at):
        at = filler.end()
    return at


def only_letter(text: str) -> str | None:
    """The one letter that a short text names and does not deny."""
    text = text.strip()
    if whole := ALONE.fullmatch(text):
        return whole[1].upper()
    first = OPTION_LINE.match(text)
    if first and not ANOTHER.match(text, first.end()):
        return letter_of(first)
    letters = {letter_of(match) for match in MENTION.finditer(text) if is_meant(text, match)}
    return letters.pop() if len(letters) == 1 else None


def line_letters(text: str) -> Iterator[str]:
    """The letters on lines of their own; without one, those that begin a line before an option's text."""
    lines = [line for line in (line.lstrip("-•+* ") for line in text.split("\n")) if line]
    alone = [match[1].upper() for line in lines if (match := ALONE.fullmatch(line))]
    if alone:
        yield from alone
        return
    for line in lines:
        match = OPTION_LINE.match(line)
        if match and not WRONG_AFTER.match(line, match.end()):
            yield letter_of(match)
            if another := ANOTHER.match(line, match.end()):
                yield re.sub(r"\W", "", another[0])[-1].upper()


def is_article(text: str, found: re.Match[str]) -> bool:
    """Whether a letter begins a phrase instead: `A dog`, `I think`."""
    after = text[found.end() : found.end() + NEAR]
    if found["closed"] or found[1] not in ("A", "I"):
        return False
    return re.match(rf" (?!{REASONS}\b)[a-z]", after) is not None


def is_meant(text: str, match: re.Match[str]) -> bool:
    """Whether a mention is not denied, and a bare one stands where a choice stands."""
    before = text[max(0, match.start() - LONGEST_CLAUSE) : match.start()]
    clause = re.split(r"(?<!\ball)(?<!thing) (?:but|sondern|mais|sino|pero|но|а) ", CLAUSE_END.split(before)[-1])[-1]
    start = before[-NEAR:] if len(before) < NEAR else " " + before[-NEAR:]
    if match["bare"] and not BEFORE.search(start) and not ANOTHER.match(text, match.end()):
        return False
    return not NEGATION.search(clause) and not WRONG_AFTER.match(text, match.end())


def is_claimed(text: str, match: re.Match[str]) -> bool:
    """Whether a mention is called right, or chosen."""
    before = text[max(0, match.start() - NEAR) : match.start()]
    return bool(RIGHT_AFTER.match(text, match.end()) or CHOSEN_BEFORE.search(before)) and not ANOTHER.match(
        text, match.end()
    )


def letter_of(match: re.Match[str]) -> str:
    """The letter that a match found, in upper case."""
    return next(group for group in match.groups() if group).upper()
