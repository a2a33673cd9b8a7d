"""Text about numbers in one plain notation: ASCII digits, `*`, `/`, `^`, `√`, and no Markdown or LaTeX around them."""

from __future__ import annotations

import re
import unicodedata

from meteor_agents.verifiers.markup import composed, single_spaced, unmarked, untexted

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
RAISED = re.compile(r"[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
VULGAR = re.compile(r"[¼½¾⅐-⅞↉]")
SIGNS = str.maketrans(
    {"−": "-", "‐": "-", "‑": "-", "﹣": "-", "⁄": "/", "∕": "/", "÷": "/", "·": "*", "⋅": "*", "∙": "*", "•": "*",
     "’": "'", "‘": "'", "٫": ".", "٬": ",", "٪": "%", "،": ",", "、": ",", "，": ",", "≃": "≈", "≅": "≈", "∼": "~",
     "⟨": "<", "⟩": ">", "µ": "μ", "㎡": "m^2", "º": "°", "≦": "≤", "≧": "≥", "—": "–", "〜": "–", "～": "–"}
)  # fmt: skip
SYMBOLS = {
    "times": "*", "cdot": "*", "div": "/", "pi": "π", "infty": "∞", "infin": "∞", "pm": "±", "cup": "∪", "approx": "≈",
    "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "lt": "<", "gt": ">", "ldots": "…", "dots": "…", "cdots": "…",
    "langle": "<", "rangle": ">", "degree": "°", "circ": "°", "quad": " ", "qquad": " ", "to": "→", "rightarrow": "→",
    "Rightarrow": "→", "implies": "→", "therefore": " ", "left": "", "right": "", "big": "", "Big": "", "bigl": "",
    "bigr": "", "displaystyle": "", "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "colon": ":", "mu": "μ",
    "Omega": "Ω", "minus": "-", "lbrace": "{", "rbrace": "}", "pounds": "£", "euro": "€", "land": " and ", "lor": " or ",
}  # fmt: skip
COMMAND = re.compile(r"\\([A-Za-z]+)(?: (?=\W))?|\\([$%{},;:! &()\[\]#_])")
MATH_SIGNS = re.compile(r"\$\$?(?=[^$\n]{1,400}?\$)([^$\n]{1,400})\$\$?(?!\d)")
GERMAN_DIGITS = re.compile(r"(\d)(?:\{,\}|\{\.\})(\d)")
OVERLINE = re.compile(r"\\(?:overline|bar|dot)\{ ?(\d{1,40}) ?\}|\\(?:bar|dot) ?(\d)")
DEGREES = re.compile(r"\^ ?\{? ?°\}?")
POWER_STARS = re.compile(r"(?<=[\d)])\*\*(?=[\d(-])")
QUOTED_OR_MORE = re.compile(r"\A>=|\A> ?(?=[-$€£\d][^\n]*\Z)")
"""`> 3` as a whole text is a comparison; among other lines it is a quotation."""
LIST_NUMBER = re.compile(r"^(?:\d{1,2}[.)]|[-•+*]) (?=\S)", re.MULTILINE)


def tidy(text: str) -> str:
    """The text in plain notation, its lines kept.

    >>> tidy("**3 × 10⁸** m, $\\\\dfrac{1}{2}$, １２％")
    '3 * 10^8 m, \\\\frac{1}{2}, 12%'
    """
    text = RAISED.sub(lambda match: "^" + match[0].translate(SUPERSCRIPTS), text)
    text = VULGAR.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]), text)
    text = composed(text.translate(SIGNS)).translate(SIGNS)
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)
    text = QUOTED_OR_MORE.sub("≥" if text.lstrip().startswith(">=") else "more than ", text.strip())
    text = unmarked(POWER_STARS.sub("^", text))
    if "\\" in text or "$" in text:
        text = without_latex(text)
    text = single_spaced(text.replace("×", "*"))
    return without_list_numbers(text)


def without_latex(text: str) -> str:
    """The text with LaTeX commands replaced by signs, and mathematics without its dollar signs."""
    text = OVERLINE.sub(lambda match: f"({match[1] or match[2]})", GERMAN_DIGITS.sub(r"\1,\2", text))
    text = text.replace("\\$", "US$").replace("\\!", "").replace("\\circ", "°").replace("\\\\", "\n")
    text = MATH_SIGNS.sub(r"\1", text)
    text = COMMAND.sub(symbol, untexted(text))
    return DEGREES.sub("°", text)


def symbol(match: re.Match[str]) -> str:
    """The sign for one match of a LaTeX command; the command itself if it is not known."""
    if match[2]:
        return match[2] if match[2] in "%{}&#_" else " "
    return SYMBOLS.get(match[1], match[0])


def without_list_numbers(text: str) -> str:
    """The text without the marks of a list: its points `-`, or its numbers where they count up from `1.`"""
    if "\n" not in text:
        return text
    numbered = re.search(r"^1[.)] \S", text, re.MULTILINE) and re.search(r"^2[.)] \S", text, re.MULTILINE)
    return LIST_NUMBER.sub(lambda match: match[0] if match[0][0].isdigit() and not numbered else "", text)
