"""Lists, tuples, sets and intervals as text."""

import re
from collections.abc import Iterable

_WORD = r"\\(?:text|mbox) ?\{{,? ?{0} ?\}}|(?<= ){0}(?= )"
COMMA = re.compile(",(?: ?(?:{0}))?|;|{0}".format(_WORD.format("(?:and|or)")))
_OR = re.compile(r"\\cup(?![A-Za-z])|" + _WORD.format("or"))
LISTS = ("{}", ",")


def collection(text: str) -> tuple[str, list[str]]:
    r"""The brackets around a collection ("," for none) and its elements, a ± b as two."""
    text = text.strip()
    kind, inner = ",", text
    if text.startswith(r"\{") and text.endswith(r"\}"):
        kind, inner = "{}", text[2:-2]
    elif len(text) > 2 and text[0] in "([" and text[-1] in ")]":
        kind, inner = text[0] + text[-1], text[1:-1]
    parts = split_at(inner, COMMA)
    if len(parts) == 1 and kind not in LISTS or not all(parts):
        return "", []
    if kind in LISTS:
        parts = [each for part in parts for each in _signs(part)]
    if len(parts) == 1 and kind == ",":
        return "", []
    return kind, parts


def _signs(part: str) -> Iterable[str]:
    r"""Both values of an element with one \pm."""
    signs = re.findall(r"\\(?:pm|mp)(?![A-Za-z])", part)
    if signs != [r"\pm"]:
        return [part]
    both = (re.sub(r"\\pm(?![A-Za-z]) ?", sign, part) for sign in "+-")
    return [each.strip().removeprefix("+").strip() for each in both]


_BRACKETS = re.compile(r"\\begin|\\end|\\?[({\[\])}]")


def split_at(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split at separators that are within no brackets; [text] if brackets do not close."""
    depth, starts = 0, [0]
    ends = []
    position = 0
    while position < len(text):
        if depth == 0 and (match := separator.match(text, position)):
            ends.append(match.start())
            starts.append(match.end())
        elif match := _BRACKETS.match(text, position):
            depth += 1 if match[0][-1] in "({[n" else -1
            if depth < 0:
                return [text]
        else:
            position += 1
            continue
        position = match.end()
    if depth:
        return [text]
    return [text[start:end].strip() for start, end in zip(starts, [*ends, len(text)], strict=True)]


_NAMED = re.compile(r"([A-Za-z]) ?=(.*)")


def by_name(elements: list[str]) -> list[str] | None:
    """The values of y = 2, x = 1 as a tuple has them, by letters that follow each other."""
    named = [_NAMED.fullmatch(element) for element in elements]
    values = {match[1]: match[2].strip() for match in named if match}
    names = "".join(sorted(values))
    if len(names) < len(elements) or names not in "abcdefghijklmnopqrstuvwxyz":
        return None
    return [values[name] for name in names]


def of_one_name(elements: list[str]) -> bool:
    """Whether they are x = 2, x = 3: values of one unknown, which are no point."""
    named = [_NAMED.fullmatch(element) for element in elements]
    return len(named) > 1 and len({match and match[1] for match in named}) == 1 and all(named)


_SIDES = re.compile(r"(\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>)")
LETTER = (
    r"(?:[A-Za-df-z]"  # e is a number
    r"|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|varphi|omega|tau|psi|rho|sigma)(?![A-Za-z]))"
)
_BUILDER = re.compile(
    rf"\\\{{ ?({LETTER})(?: ?\\in ?\\mathbb ?(?:R|\{{R\}}))? ?(?::|\||\\mid(?![A-Za-z])) ?(.*)\\\}}"
)
_FLIP = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


def interval(text: str) -> str | None:
    r"""The set that inequalities in one letter stand for: x > 4; x < 1 or x > 4; \{x : x > 4\}."""
    builder = _BUILDER.fullmatch(text)
    pieces = [_inequality(part) for part in split_at(builder[2] if builder else text, _OR)]
    letters = {piece[0] if piece else None for piece in pieces}
    if None in letters or len(letters) > 1 or (builder and builder[1] not in letters):
        return None
    return r" \cup ".join(piece[1] for piece in pieces if piece)


def _inequality(text: str) -> tuple[str, str] | None:
    """The letter of an inequality, and the interval it stands for."""
    parts = [part.strip() for part in _SIDES.split(text)]
    if len(parts) == 3 and re.fullmatch(LETTER, parts[2]):
        parts = [parts[2], _FLIP[parts[1]], parts[0]]
    if len(parts) == 3 and re.fullmatch(LETTER, parts[0]) and parts[2]:
        if parts[1] in ("<", r"\le"):
            return parts[0], rf"(-\infty,{parts[2]}{')' if parts[1] == '<' else ']'}"
        return parts[0], rf"{'(' if parts[1] == '>' else '['}{parts[2]},\infty)"
    if len(parts) == 5 and re.fullmatch(LETTER, parts[2]) and parts[0] and parts[4]:
        if {parts[1], parts[3]} <= {">", r"\ge"}:
            parts = [parts[4], _FLIP[parts[3]], parts[2], _FLIP[parts[1]], parts[0]]
        if {parts[1], parts[3]} <= {"<", r"\le"}:
            opening, closing = "(" if parts[1] == "<" else "[", ")" if parts[3] == "<" else "]"
            return parts[2], f"{opening}{parts[0]},{parts[4]}{closing}"
    return None
