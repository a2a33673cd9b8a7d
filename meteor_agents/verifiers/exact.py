"""`exact`: the answer is the reference, apart from case, spacing, punctuation and what only shows or explains it."""

from __future__ import annotations

import re
import unicodedata

from pydantic import BaseModel, ConfigDict

from meteor_agents.messages import Question, Verdict
from meteor_agents.verifiers.markup import TAIL, composed, unboxed, unmarked, untexted, visible
from meteor_agents.verifiers.verdicts import correct, incorrect, quoted, without_reference
from meteor_agents.verifiers.wording import DOUBT, NEGATION, RETRACTION, announced

LONGEST = TAIL
"""Characters of the longest text whose markup and punctuation are looked at; a longer one is compared as it is written."""
LONGEST_REMARK = 4_000
"""Characters of the longest reply in which an explanation is looked for; a longer one is compared as a whole."""
REMARK = re.compile(
    r"\(?(?:that|this|it|he|she|they|these|those|because|since|explanation|reason|note|das|dies|es|weil|denn|"
    r"c'est|car|parce|cela|es|porque|esto|esta|este|это|потому|так как)\b|因为|因為|这|這|これ|なぜなら",
    re.IGNORECASE,
)
"""How a sentence begins that explains the answer before it on the same line."""
REASON = re.compile(r",? \b(?:because|weil|denn|parce qu|porque|потому что)\b|,?因为|,?因為", re.IGNORECASE)
"""What begins a reason within the sentence of an answer."""
SENTENCE_END = re.compile(r"[.!?。！？] |[。！？]")


class ExactOptions(BaseModel):
    """`exact` has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ExactVerifier:
    """Compares normalised texts. What carries meaning stays: `C#` is not `C`, `-5` not `5`, `3.5` not `35`.

    An explanation after the answer, and `The answer is` before it, are left out where nothing in them takes the answer
    back: see the table in docs/verifiers.md.
    """

    name = "exact"

    def verify(self, question: Question, answer: str) -> Verdict:
        """Correct if the answer, as `view` gives it, is the reference."""
        if question.reference is None:
            return without_reference(self.name, question)
        expected = normalised(question.reference)
        given = read(answer, expected)
        if given == expected:
            return correct(self.name)
        if not given:
            return incorrect(self.name, "The answer is empty.")
        return incorrect(self.name, f"The answer {quoted(answer)} is not the expected one.")

    def view(self, question: Question, answer: str) -> str | None:
        """The answer in small letters without markup, punctuation and explanation; None for an empty one."""
        return read(answer, question.reference and normalised(question.reference)) or None

    def close(self) -> None:
        """Does nothing: there is nothing to give back."""


def read(answer: str, expected: str | None) -> str:
    """The answer, normalised: all of it where that is `expected`, and else the part that is said to be the answer."""
    whole = normalised(answer)
    if whole == expected or len(answer) > LONGEST_REMARK:
        return whole
    return normalised(answer_part(answer)) or whole


def answer_part(text: str) -> str:
    """What of a text is the answer: without the words that announce it and the sentences that explain it.

    >>> answer_part("The answer is Paris.\\n\\nThat is the capital.")
    'Paris.'
    """
    text = shown(text).strip()
    start, denied = announced(text)
    if denied or RETRACTION.search(text):
        return text
    text = text[start:].strip() or text
    line, _, rest = (part.strip() for part in text.partition("\n"))
    if rest:
        return line if is_remark(rest) else text
    reason = REASON.search(line)
    if reason and is_remark(line[reason.end() :].rstrip(".") + " so."):
        return line[: reason.start()]
    end = SENTENCE_END.search(line)
    if end and REMARK.match(line, end.end()) and is_remark(line[end.end() :]):
        return line[: end.end()].strip()
    return line


def is_remark(text: str) -> bool:
    """Whether a text only explains: whole sentences, in which nothing doubts, denies or names another answer."""
    words = text.split()
    if not words or NEGATION.search(text) or DOUBT.search(text):
        return False
    sentence = text[-1] in "。！？" or (len(words) >= 3 and text.rstrip("\"'”»*_")[-1:] in (".", "!", ")"))
    listed = any(line.lstrip().startswith(("-", "*", "•", "+")) for line in text.split("\n"))
    return sentence and not listed


def shown(text: str) -> str:
    """The text as a reader sees it: without invisible characters, Markdown, LaTeX boxes and the signs of mathematics."""
    text = unmarked(untexted(unboxed(visible(text).replace("\r\n", "\n")))).strip()
    for start, end in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = text[len(start) : -len(end)]
        if text.startswith(start) and text.endswith(end) and inner and start not in inner:
            return inner
    return text


def normalised(text: str) -> str:
    """Case-folded words with single spaces; a text of punctuation alone is kept as it is.

    Of a text longer than `LONGEST` only invisible characters, spacing and case are evened out, so that reading it takes
    bounded time.

    >>> normalised("  the **Blue**  Whale. ")
    'the blue whale'
    """
    text = visible(text).strip()
    if len(text) > LONGEST:
        return " ".join(text.casefold().split())
    folded = composed(composed(shown(text)).casefold()).replace("−", "-")
    blanks = {ord(char): " " for char in set(folded) if is_punctuation(char)}
    words = LOOSE_MARK.sub(" ", folded).translate(blanks).split()
    return " ".join(words) or folded.strip() or text.strip()


LOOSE_MARK = re.compile(r"(?<!\d)[.,]|[.,](?!\d)|(?<!\w)-(?!\d)|(?<=\w)-(?=\w)")
"""Points and commas outside numbers, and hyphens: only a minus sign (`-5`, `O-`) carries meaning."""


def is_punctuation(char: str) -> bool:
    """Whether a character is punctuation, apart from what belongs to numbers, names and formulas (`50%`, `C#`)."""
    return char == "`" or (unicodedata.category(char).startswith("P") and char not in "#%&@*/\\.,-")
