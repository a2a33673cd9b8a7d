"""The words, in several languages, that say where an answer stands and whether it is still meant.

English, German, French, Spanish, Italian, Portuguese, Russian, Chinese and Japanese. Used by `exact`, `numeric` and
`choice`. All patterns are bounded: none looks ahead further than a few words.
"""

from __future__ import annotations

import re

_NOUNS = (
    r"(?:answer|solution|result|antwort|l[öo]sung|ergebnis|r[ée]ponse|r[ée]sultat|respuesta|soluci[óo]n|resultado|"
    r"risposta|soluzione|risultato|resposta|solu[çc][ãa]o|ответ\w?|решение|результат)"
)
_VERBS = (
    r"(?:is|are|was|would be|should be|must be|will be|equals|ist|lautet|beträgt|wäre|sind|est|serait|c'est|sont|es|"
    r"sería|son|è|sarebbe|é|seria|равен|равна|равно|является|будет)"
)

ANSWER = re.compile(
    rf"\b{_NOUNS}\b(?: (?!{_VERBS}\b)[^\W\d]{{2,}}){{0,6}} ?(?:{_VERBS}\b ?[:=]?|[:=→]|(?<= )[—–-](?= ))"
    r"|(?:正确答案|最终答案|答案|正解|答え|回答|解答|結果|结果) ?(?:应该是|应该|应|就是|是|为|為|は|[:=])(?: ?[、,])?"
    r"|(?:^|\n) ?####(?!#)",
    re.IGNORECASE,
)
"""`The answer to this is`, `Antwort:`, `答案是`, `####`: what follows is the answer."""

RETRACTION = re.compile(
    r"(?:^|(?<=[\n.!?,;:…—–(]) ?|(?<= )- )(?:(?:but|oh|ah|hmm+|no|hm|und|mais|pero|но|well),? )*"
    r"(?:(?:wait|hold on|moment(?: mal)?|warte(?: mal)?|halt|attends|attendez|espera|espere|подожд\w{1,5}|стоп|oops|"
    r"sorry|pardon|perdón|correction|korrektur|corrección|no|nein|non|нет|scratch that|my mistake|strike that)"
    r"(?= ?[,.!?:;…—–\n]| -| no\b| that\b| it\b| nein\b| non\b)"
    r"|(?:actually|in fact|or rather|on second thoughts?|on reflection|i mean(?:t)?|let me correct|i was wrong|"
    r"that(?:'s| is| was) wrong|eigentlich|oder besser|besser gesagt|vielmehr|ich meine|doch nicht|"
    r"en fait|ou plutôt|plutôt|en realidad|mejor dicho|o más bien|на самом деле|точнее|вернее)\b)"
    r"|等等|等一下|不对|不,|更正|其实|いや|待って|訂正|やっぱり|やはり|実は",
    re.IGNORECASE,
)
"""`wait,`, `Actually`, `nein,`, `不对`: what stood before is taken back."""

NEGATION = re.compile(
    r"\b(?:not|never|no|none|neither|nor|cannot|without|isn't|wasn't|aren't|don't|doesn't|can't|won't|wouldn't|"
    r"couldn't|shouldn't|unlike|except|excluding|(?:all|anything|everything) but|other than|apart from|"
    r"nicht|kein\w{0,2}|niemals|weder|ne|n'est|pas|jamais|ni|nunca|tampoco|non|não|"
    r"не|ни|нет|instead of|rather than|anstatt|statt|wrong|incorrect|false|falsch|faux|incorrecto|неверно\w{0,2})\b"
    r"|不是|不|非|没|ではな|じゃな|ない",
    re.IGNORECASE,
)
"""A word that turns what stands beside it into what is not the answer."""

OR = r"(?:or|oder|ou|o|oppure|или|либо|或者|或|还是|または|もしくは|か|and/or)"
AND = r"(?:and|und|et|y|e|и|和|及|と|as well as|plus)"

DOUBT = re.compile(
    r"\b(?:or|but|however|although|though|maybe|perhaps|possibly|might|could|may|unsure|uncertain|alternatively|"
    r"instead|rather|unless|guess|either|also|answer|solution|correct|right|oder|aber|jedoch|vielleicht|könnte|sondern|"
    r"eventuell|antwort|richtig|ou|mais|cependant|peut-être|pourrait|réponse|o|pero|quizás?|tal vez|podría|sino|"
    r"respuesta|или|но|однако|может|возможно|ответ)\b"
    r"|或|但|可能|也许|还是|答案|または|しかし|かもしれ|でも|答え|正解",
    re.IGNORECASE,
)
"""A word that may take an answer back or name another: what follows an answer must hold none to be ignored."""


LONGEST_CLAUSE = 120
"""Characters before an announcement that are searched for a negation."""
CLAUSE_END = re.compile(r"[.,;:!?\n。，、；：！？]")


def announced(text: str) -> tuple[int | None, bool]:
    """Where the last announced answer of a text begins (None: nowhere), and whether one is announced as wrong.

    >>> announced("The answer is 5")
    (14, False)
    >>> announced("I do not think the answer is 5")
    (None, True)
    """
    at, denied = None, False
    for match in ANSWER.finditer(text):
        before = text[max(0, match.start() - LONGEST_CLAUSE) : match.start()]
        clause = CLAUSE_END.split(before)[-1] + match[0]
        if NEGATION.search(clause):
            at, denied = None, True
        else:
            at = match.end()
    return at, denied


def standing(text: str) -> str:
    """What of a text is still meant: what follows the last retraction, where a word follows it."""
    at = 0
    for match in RETRACTION.finditer(text):
        if any(char.isalnum() for char in text[match.end() : match.end() + 200]):
            at = match.end()
    return text[at:].lstrip(" ,.:;!…—–\n") if at else text
