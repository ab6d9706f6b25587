"""Fewer ways to write one answer."""

import re

_GLYPHS = str.maketrans(
    {
        **{"−": "-", "–": "-", "‐": "-", "‑": "-", "²": "^2", "³": "^3"},
        **{"π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "×": r"\times ", "·": r"\cdot "},
        **{"≤": r"\le ", "≥": r"\ge ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ", "≈": r"\approx "},
    }
)
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # separators that can be of thousands only, anywhere: 10{,}080, 10,\!080, 10\,080
        (r"(?<=\d)(?:\{,\}|,\\!|\\[,:; ])\s*(?=\d{3}(?!\d))", ""),
        (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?)(?![A-Za-z])|(?<!\\)\\!", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\w)\s*(?=[\w{])", r"\\frac{\1}"),
        (r"(\\frac\{[^{}]*\})\s*(\w)", r"\1{\2}"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])", r"^\\circ"),
        (r"\\leq(?:slant)?(?![A-Za-z])|<=", r"\\le "),
        (r"\\geq(?:slant)?(?![A-Za-z])|>=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\varnothing(?![A-Za-z])|^\\\{\s*\\\}$", r"\\emptyset"),
        (r"\\(?:mathrm|text)\{([ie])\}", r"\1"),
        (r"^\\(?:text(?:bf|rm|it)?|mbox|math(?:rm|bf)) ?\{ ?([-+\d.][^{}]*)\}$", r"\1"),
        (r"(?<=\d) ?([aApP])\.[mM]\.?$|(?<=:\d\d) ?([aApP])[mM]$", r"\\text{ \1\2m}"),
        (r"\s+", " "),
    )
]
# Points, commas and spacing commands at the end, read backwards so that it takes linear time; of a
# backslash and a space the space may be gone.
_ENDING = re.compile(r"(?:[,;:!\s]?\\(?!\\)|[\s.,;~])*")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:[, ]\d{3})+(?:\.\d+)?")
_INTEGER = re.compile(r"([+-]?) ?(\d+)")


def normalise(answer: str) -> str:
    """Write an answer in one of its equal forms: same value, fewer spellings."""
    answer = answer.strip()
    for start, end in (("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if answer.startswith(start) and answer.endswith(end) and len(answer) > len(start + end):
            answer = answer[len(start) : -len(end)].strip(" $")
    answer = answer.translate(_GLYPHS)
    answer = _ENDING.sub("", answer[::-1], count=1)[::-1]
    for pattern, replacement in _SPELLINGS:
        answer = pattern.sub(replacement, answer)
    answer = answer.strip()
    if _THOUSANDS.fullmatch(answer):
        answer = answer.replace(",", "").replace(" ", "")
    if integer := _INTEGER.fullmatch(answer):
        digits = integer[2].lstrip("0")
        return ("-" if integer[1] == "-" and digits else "") + (digits or "0")
    return answer


def is_integer(answer: str) -> bool:
    """Whether a normalised answer is an integer."""
    return _INTEGER.fullmatch(answer) is not None


_DECIMAL = re.compile(r"(?<![\d._])(?<!_\{)(\d*)\.(\d+)(?![\d.])")
TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(?<!\d)(\d+(?:\.\d+)?) ?\^\\circ")
_TIMES = re.compile(r"(?<![A-Za-z_^\d])(\d+) ?(?=\()|\) ?(?=\()")
_LETTER = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
_IMAGINARY = re.compile(r"(?<=\d)i(?![A-Za-z])")


def for_algebra(gold: str, answer: str) -> tuple[str, str]:
    """Two normalised answers as Math-Verify reads them rightly.

    Decimals become fractions (it rounds them to six places), degrees within trigonometry radians
    (it ignores the sign), 2(3) a product (it adds, as in a mixed number), 2i is 2 i (its i are two),
    and where R and r are two variables R gets another name (it has one).
    """
    sides = [_DECIMAL.sub(_fraction, side) for side in (_radians(gold), _radians(answer))]
    sides = [_TIMES.sub(r"\g<0>\\cdot ", side) for side in sides]
    sides = [_IMAGINARY.sub(" i", side) for side in sides]
    letters = [set(_LETTER.findall(side)) for side in sides]
    used = set.union(*letters)
    both = sorted({a for own in letters for a in own if a.isupper() and a.lower() in own})
    free = [a for a in "uvwqpzykm" if a not in used and a.upper() not in used]
    if both and len(both) <= len(free) and not re.search(r"\\(?:text|mbox|begin)", gold + answer):
        names = dict(zip(both, free, strict=False))
        sides = [_LETTER.sub(lambda match: names.get(match[0], match[0]), side) for side in sides]
    return sides[0], sides[1]


def _radians(text: str) -> str:
    return _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text) if TRIGONOMETRY.search(text) else text


def _fraction(match: re.Match[str]) -> str:
    return rf"(\frac{{{match[1]}{match[2]}}}{{1{'0' * len(match[2])}}})"
