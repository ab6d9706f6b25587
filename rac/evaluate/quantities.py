"""Numbers as exact fractions, polynomials of them, and the units behind them."""

import math
import re
from fractions import Fraction
from typing import NamedTuple

from rac.evaluate.spelling import TRIGONOMETRY

_PLAIN = r"(?:(?:[1-9]\d{0,2}(?:[, ]\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"""(?P<sign>[+-]?)\ ?(?:
      (?:(?P<whole>\d+)\ ?)?\\frac\ ?\{{\ ?(?P<over>-?{_PLAIN})\ ?\}}\ ?\{{\ ?(?P<under>{_PLAIN})\ ?\}}
    | (?:(?P<whole_>\d+)\ )?(?P<over_>{_PLAIN})\ ?/\ ?(?P<under_>{_PLAIN})
    | (?P<start>\d*)\.(?P<middle>\d*)\\(?:overline|bar)\ ?(?:\{{(?P<again>\d+)\}}|(?P<again_>\d))
    | (?P<plain>{_PLAIN})
    | (?:(?P<times>{_PLAIN})\ ?(?:\\times|\\cdot|\*)\ ?)?
      10\ ?\^\ ?(?:\{{\ ?(?P<power>[+-]?\d{{1,3}})\ ?\}}|(?P<power_>-?\d))
    )""",
    re.VERBOSE,
)
_LONGEST = 200  # characters


def number(text: str) -> Fraction | None:
    r"""The value of a rational number: 1,234.5, -3/4, 1\frac{4}{5}, 0.1\overline{6}, 2 \cdot 10^{-3}.

    None for anything else, improper mixed numbers such as 1 7/5 and division by zero among it.
    """
    match = _NUMBER.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        return None
    part = {name.rstrip("_"): value for name, value in match.groupdict().items() if value}
    if "under" in part:
        over, under, whole = (_plain(part.get(name, "0")) for name in ("over", "under", "whole"))
        if under == 0 or ("whole" in part and not 0 <= over < under):
            return None
        value = whole + over / under
    elif "again" in part:
        fixed, again = part.get("start", "") + part.get("middle", ""), part["again"]
        value = Fraction(
            int(fixed + again) - int(fixed or "0"),
            10 ** len(part.get("middle", "")) * (10 ** len(again) - 1),
        )
    elif "plain" in part:
        value = _plain(part["plain"])
    else:
        value = _plain(part.get("times", "1")) * Fraction(10) ** int(part["power"])
    return -value if part.get("sign") == "-" else value


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", ""))


# A polynomial without brackets: decimals and letters, their products, and sums of those.
_FACTOR = r"(?:\d+(?:\.\d+)?(?! ?\d)|[A-Za-z](?:\^[1-9])?)"
_MONOMIAL = rf"{_FACTOR}(?:(?: ?\* ?| )?{_FACTOR})*"
_POLYNOMIAL = re.compile(rf"[-+ ]*{_MONOMIAL}(?: ?[-+][-+ ]*{_MONOMIAL})*")
_READ_AS_MORE = re.compile("sqrt|inf|percent|pct|(?<![A-Za-z])(?:and|or)(?![A-Za-z])")


def polynomial(text: str) -> dict[str, Fraction] | None:
    """The coefficients other than 0, by the letters that they multiply: {"": 3, "xx": 2} of 2x^2 + 3.

    None for what is no plain polynomial: it has brackets, divisions or commands, or words that mean more.
    """
    if not _POLYNOMIAL.fullmatch(text) or _READ_AS_MORE.search(text):
        return None
    terms: dict[str, Fraction] = {}
    for signs, monomial in re.findall(rf"([-+ ]*)({_MONOMIAL})", text):
        factors = re.findall(_FACTOR, monomial)
        powers = (f[0] * int(f[2:] or 1) for f in factors if f[0].isalpha())
        letters = "".join(sorted("".join(powers)))
        numbers = (Fraction(factor) for factor in factors if factor[0].isdigit())
        value = math.prod(numbers, start=Fraction((-1) ** signs.count("-")))
        terms[letters] = terms.get(letters, Fraction(0)) + value
    return {letters: value for letters, value in terms.items() if value}


class Unit(NamedTuple):
    """What is measured ("" where the name is not known) and how many of its first unit this is."""

    kind: str
    size: Fraction


class Quantity(NamedTuple):
    """A text without its unit."""

    text: str
    unit: Unit | None


# Names of a unit and its size; the international yard and pound.
_SIZES = {
    "length": {
        "mm millimeter millimetre": "0.001",
        "cm centimeter centimetre": "0.01",
        "m meter metre": "1",
        "km kilometer kilometre": "1000",
        "in inch inches": "0.0254",
        "ft foot feet": "0.3048",
        "yd yard": "0.9144",
        "mi mile": "1609.344",
    },
    "time": {
        "ms millisecond": "0.001",
        "s sec second": "1",
        "min minute": "60",
        "h hr hour": "3600",
        "day": "86400",
        "week": "604800",
    },
    "mass": {
        "g gram": "0.001",
        "kg kilogram": "1",
        "oz ounce": "0.028349523125",
        "lb pound": "0.45359237",
    },
    "speed": {"mph": "0.44704", "kph kmh": "5/18"},
    "before noon": {"am": "1"},
    "after noon": {"pm": "1"},
    "money": {"cent": "0.01", "dollar": "1"},
    "angle": {"degree deg": "1"},
    "radian": {"radian rad": "1"},
    "share": {"percent percentage": "0.01"},
    "count": {
        "dozen": "12",
        "hundred": "100",
        "thousand": "1000",
        "million": "1000000",
        "billion": "1000000000",
    },
}
_UNITS = {
    name: Unit(kind, Fraction(size))
    for kind, sizes in _SIZES.items()
    for names, size in sizes.items()
    for name in names.split()
}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_POWER = r"(?: ?\^ ?(?:\{ ?(\d) ?\}|(\d)))?"
_STYLED = re.compile(
    r" ?\\(?:text(?:rm|bf|it)?|mbox|mathrm|operatorname) ?\{ ?([A-Za-z][A-Za-z ./-]*)(?:\^\{?(\d)\}?)? ?\}"
    + _POWER
)
_BARE = re.compile(r"([^A-Za-z]*[^A-Za-z ])( ?)([A-Za-z](?:[A-Za-z ]*[A-Za-z])?)" + _POWER)
_BEHIND = re.compile(r"(.*(?:[\d)}]|\\pi))( )([A-Za-z]{2}(?:[A-Za-z ]*[A-Za-z])?)" + _POWER)
_CONSTANT = re.compile(r"(?:[\d +*/(){}^-]|\\(?:frac|cdot|times|sqrt|pi)(?![A-Za-z]))+")
_NO_UNITS = re.compile(  # and variables, and functions of one letter
    "and|or|not|if|over|plus|minus|squared|cubed|factorial|base|half|halves"
    "|(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth)s?"
    "|(?:arc)?(?:sin|cos|tan|cot|csc)h?[a-z]?|(?:ln|exp|mod|sqrt)[a-z]?|log[a-rt-z]?|[b-z]"
    "|alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega|inf|infty|infinity"
)


def _unit(words: str, power: str | None) -> Unit:
    names = words.casefold().replace(".", "").split()
    exponent = int(power or 1)
    for name in (names[0], names[-1]):
        if name in _POWERS and len(names) > 1:
            exponent = _POWERS[name]
            names.remove(name)
    name = " ".join(names)
    unit = _UNITS.get(name) or _UNITS.get(name.removesuffix("s") if len(name) > 2 else "")
    if unit is None:
        return Unit("", Fraction(1))
    return unit if exponent == 1 else Unit(f"{unit.kind}^{exponent}", unit.size**exponent)


def split_unit(text: str, strict: bool = False) -> Quantity:
    r"""Take the unit off a quantity: \$5, 5\%, 5^\circ, 5 \text{ cm}^2, 5 square feet.

    A unit in plain letters is taken off a constant only. `strict` (for golds) takes those alone that
    nobody reads as variables: 5 cm, 6 apples, but neither 5m nor 5 m nor 6 abc.
    """
    return _marked(text.strip()) or _bare(text.strip(), strict) or Quantity(text.strip(), None)


def _marked(text: str) -> Quantity | None:
    r"""A quantity with a unit that is a sign or \text."""
    if dollars := re.match(r"([+-]?) ?(?:\\?\$|\\text ?\{ ?\\?\$ ?\}) ?(?=[\d.\\])", text):
        return Quantity(dollars[1] + text[dollars.end() :], _UNITS["dollar"])
    for sign, unit in (("%", "percent"), (r"^\circ", "degree")):
        if text.endswith(sign) and not TRIGONOMETRY.search(text):
            return Quantity(text.removesuffix(sign).rstrip("\\ "), _UNITS[unit])
    start = max(
        text.rfind(command) for command in (r"\text", r"\mbox", r"\mathrm", r"\operatorname")
    )
    if start > 0 and (styled := _STYLED.fullmatch(text, start)):
        head = text[:start].rstrip()
        if re.search(r"\d|\\pi", head):
            return Quantity(head, _unit(styled[1], styled[2] or styled[3] or styled[4]))
    return None


def _bare(text: str, strict: bool) -> Quantity | None:
    """A quantity with a unit in plain letters."""
    bare = _BARE.fullmatch(text)
    if bare is None or number(bare[1]) is None:
        bare, strict = _BEHIND.fullmatch(text), True
    if bare is None or not (is_constant(bare[1]) or number(bare[1]) is not None):
        return None
    measure, spaced, letters = _unit(bare[3], bare[4] or bare[5]), bool(bare[2]), len(bare[3])
    known = bool(measure.kind) and (not strict or (spaced and letters > 1))
    if known or (spaced and (_is_name(bare[3]) if strict else _may_be_name(bare[3]))):
        return Quantity(bare[1], measure)
    return None


def _may_be_name(words: str) -> bool:
    """Whether letters may be what is counted: apples, abc; neither ab nor sinx nor max x."""
    return len(words) > 2 and not any(map(_NO_UNITS.fullmatch, words.casefold().split()))


def _is_name(words: str) -> bool:
    """Whether nobody reads letters as variables: apples, square units; not abc, kxy, pqrs, abef."""
    return _may_be_name(words) and any(
        len(word) > 3 and re.search("[aeiou]", word) and [*word] != sorted({*word})
        for word in words.casefold().split()
    )


def is_constant(text: str) -> bool:
    r"""Whether a text is arithmetic without letters: 2\sqrt{3}, \frac{\pi}{2} + 1."""
    return _CONSTANT.fullmatch(text) is not None


def quantities(gold: str, answer: str) -> tuple[Quantity, Quantity]:
    """Both without their units. Plain letters of an answer are variables where the gold has some."""
    left, right = split_unit(gold, strict=True), split_unit(answer)
    if left.unit is None and right.unit and not is_constant(gold) and number(gold) is None:
        same = split_unit(gold)
        if same.unit == right.unit and right.unit.kind:
            return same, right
        right = _marked(answer) or Quantity(answer, None)
    return left, right


_CLOCK = re.compile(r"(1?\d)(?: ?: ?([0-5]\d))?")


def clock(text: str) -> Fraction | None:
    """The hours of a time of half a day: 8:30, 8."""
    match = _CLOCK.fullmatch(text)
    return int(match[1]) + Fraction(int(match[2] or 0), 60) if match else None


def same_quantity(gold: Fraction, of: Unit | None, answer: Fraction, unit: Unit | None) -> bool:
    """Whether two numbers with units are equal; a unit that one of them lacks is understood.

    A percentage may be written as its number (12.5 for 12.5 %) or as its value (0.125).
    """
    if of and unit and of.kind and unit.kind:
        return of.kind == unit.kind and gold * of.size == answer * unit.size
    if (of is None) != (unit is None):
        known = of or unit
        assert known
        if known.kind in ("share", "count"):
            values = gold * (of.size if of else 1), answer * (unit.size if unit else 1)
            return values[0] == values[1] or (gold == answer and abs(gold) >= 1)
    return gold == answer


def scaled(text: str, ratio: Fraction) -> str:
    """A text times a number."""
    if ratio == 1:
        return text
    return rf"\frac{{{ratio.numerator}}}{{{ratio.denominator}}}({text})"
