"""Is one answer equal to another? What text alone decides beyond doubt; the rest is asked.

Equality is of values: 2/4 is 1/2, and 52_8 is 42_{10}, whatever form the problem wanted. Each rule
below corrects something that Math-Verify 0.9.0 has wrong (docs/evaluation.md lists them) or decides
what needs no algebra. A rule that is not sure says None, and the next one is tried.
"""

import re
from collections.abc import Callable
from fractions import Fraction

from rac.evaluate.brackets import (
    COMMA,
    LETTER,
    LISTS,
    by_name,
    collection,
    interval,
    of_one_name,
    split_at,
)
from rac.evaluate.quantities import (
    Quantity,
    clock,
    is_constant,
    number,
    polynomial,
    quantities,
    same_quantity,
    scaled,
)
from rac.evaluate.spelling import for_algebra, is_integer

Ask = Callable[[str, str], bool]
LONG = 400  # characters: beyond it an answer is no number, list or chain that rules are for
MANY = 8  # elements of an unordered list that are matched one by one


_SIDE_BY_SIDE = re.compile(r"(?<![\w.^{}\\])\d+(?:\.\d+)? \d|\\[lc]?dots(?![A-Za-z])")


class Undecided(Exception):
    """Text alone does not decide."""


def decided(gold: str, answer: str) -> bool | None:
    """What `equal` says of two normalised answers without asking; None where it would have to."""
    try:
        return equal(gold, answer, _undecided)
    except Undecided:
        return None


def _undecided(gold: str, answer: str) -> bool:
    raise Undecided


def equal(gold: str, answer: str, ask: Ask) -> bool:
    """Whether two normalised answers are equal.

    Args:
        gold: the right answer.
        answer: another one.
        ask: what decides where text does not; its arguments may be parts of the two, and have no
            units, no decimals and no degrees within trigonometry any more.
    """
    if gold == answer:
        return True
    if not answer or (is_integer(gold) and is_integer(answer)):
        return False
    if max(len(gold), len(answer)) <= LONG:
        for rule in RULES:
            verdict = rule(gold, answer, ask)
            if verdict is not None:
                return verdict
    if _SIDE_BY_SIDE.search(answer) and not _SIDE_BY_SIDE.search(gold):
        return False  # Math-Verify adds them
    return ask(*for_algebra(gold, answer))


# ---- rules: (gold, answer, ask) → verdict, or None where they do not apply

_NUMERAL = re.compile(r"(-?)((?=[A-Z]*\d)[\dA-Z]+) ?_ ?(?:\{ ?(\d\d?) ?\}|(\d))")


def _numerals(gold: str, answer: str, ask: Ask) -> bool | None:
    """52_8 against 52_7."""
    values = []
    for match in (_NUMERAL.fullmatch(gold), _NUMERAL.fullmatch(answer)):
        if not match:
            return None
        try:
            values.append(int(match[1] + match[2], int(match[3] or match[4])))
        except ValueError:  # no such base, or no such digit in it
            return None
    return values[0] == values[1]


_STYLED = r"\\(?:text(?:bf|it|rm|sf)?|mbox|mathrm|mathbf) ?\{([^{}]*)\}"
_WORD = re.compile(r"\(? ?([A-Za-z]+(?:[' -]+[A-Za-z]+)*)[ .]*\)?[ .]*")
_CHOICE = re.compile(r"\(([A-Z])\)([ :.]*)(\S.*)")
_AND_MORE = re.compile(r"[,;&]|(?:and|or)(?![a-z])|.*(?<![A-Za-z])\([A-Z]\)")
_GOES_ON = re.compile(r"[-+*/^_=<>!|]|\\(?:cdot|times|div|pm|mp|le|ge|cup|cap|in)(?![A-Za-z])")


def _texts(gold: str, answer: str, ask: Ask) -> bool | None:
    r"""\text{Evelyn}, \text{(C)}: letter by letter, where Math-Verify multiplies the letters."""
    styled = [re.fullmatch(_STYLED, side) for side in (gold, answer)]
    texts = [
        match[1].strip() if match else side
        for match, side in zip(styled, (gold, answer), strict=True)
    ]
    words = [_WORD.fullmatch(text) for text in texts]
    if words[0] and words[1] and any(styled):
        return words[0][1].casefold() == words[1][1].casefold()
    if re.fullmatch(r"\(?[A-Z]\)?", texts[0]):
        return _choice(texts[0], re.sub(_STYLED, r"\1", answer), gold.isalpha())
    return None


def _word_lists(gold: str, answer: str, ask: Ask) -> bool | None:
    r"""\text{A, B} is the list of \text{A} and \text{B}."""
    sides = [_listed(side) for side in (gold, answer)]
    return None if sides == [gold, answer] else equal(sides[0], sides[1], ask)


def _listed(text: str) -> str:
    styled = re.fullmatch(_STYLED, text)
    words = split_at(styled[1], COMMA) if styled else []
    if len(words) < 2 or not all(map(_WORD.fullmatch, words)) or re.search(r"\bor\b", text):
        return text
    return ", ".join(rf"\text{{{word}}}" for word in words)


def _choice(gold: str, answer: str, letter: bool) -> bool | None:
    """(C) 25 names the choice C. (C) or (D) names two, and (C)+1 none; nor does (C)x of a `letter`."""
    choice = _CHOICE.fullmatch(answer)
    if not choice:
        return None
    if _AND_MORE.match(choice[3]):
        return False
    if _GOES_ON.match(choice[3]) and not (choice[2] and choice[3][0] == "-"):
        return None
    return choice[1] == gold.strip("()") if choice[2] or not letter else None


def _quantities(gold: str, answer: str, ask: Ask) -> bool | None:
    """Exact numbers, with or without units; what is no number is freed of its units."""
    left, right = quantities(gold, answer)
    x, y = number(left.text), number(right.text)
    if x is not None and y is not None:
        return same_quantity(x, left.unit, y, right.unit)
    if not (left.unit or right.unit):
        return None
    kinds = {side.unit.kind for side in (left, right) if side.unit}
    if "angle" in kinds and kinds <= {"angle", "radian"}:
        return _angles(left, right, ask)
    if kinds & {"before noon", "after noon"}:
        times = clock(left.text), clock(right.text)
        return len(kinds) == 1 and times[0] == times[1]
    if kinds & {"share", "count"}:
        return None
    if left.unit and right.unit and left.unit.kind and right.unit.kind:
        if left.unit.kind != right.unit.kind:
            return False
        ratio = right.unit.size / left.unit.size
        return equal(left.text, scaled(right.text, ratio), ask)
    return equal(left.text, right.text, ask)


def _angles(left: Quantity, right: Quantity, ask: Ask) -> bool:
    """Two angles, one of them in degrees: a number without a unit may be meant in either."""
    units = [side.unit and side.unit.kind for side in (left, right)]
    if "radian" not in units and equal(left.text, right.text, ask):
        return True
    if units == ["angle", "angle"]:
        return False
    in_radians = [
        rf"\frac{{\pi}}{{180}}({side.text})" if unit == "angle" else side.text
        for side, unit in zip((left, right), units, strict=True)
    ]
    return ask(*for_algebra(*in_radians))


_NAME = re.compile(
    r"(?:\\?[A-Za-z]+|\\(?:text|mathrm) ?\{[^{}]*\})(?: ?_ ?(?:\w|\{\w+\}))?(?: ?\([a-zA-Z]\))?"
)
_EQUALS = re.compile(r"(?<![<>!:\\])=")


def _chains(gold: str, answer: str, ask: Ask) -> bool | None:
    r"""x = 2+3 = 5 is 5, 1/3 = 0.333\ldots is 1/3, and 3 = 5 is nothing."""
    if r"\approx" in answer and r"\approx" not in gold:
        exact, rounded = (side.strip() for side in answer.split(r"\approx", 1))
        return equal(gold, exact if exact and not _NAME.fullmatch(exact) else rounded, ask)
    golds, answers = split_at(gold, _EQUALS), split_at(answer, _EQUALS)
    if len(golds) == len(answers) == 1 or len(split_at(answer, COMMA)) > 1:
        return None
    if len(answers) > 1:
        if answers[-1].endswith("dots") and not _NAME.fullmatch(answers[-2]):
            answers.pop()
        if _NAME.fullmatch(answers[-1]) and not _NAME.fullmatch(answers[0]):
            answers.reverse()
        for one, other in zip(answers, answers[1:], strict=False):
            if _contradict(one, other, ask):
                return False
    if len(golds) == 1:
        return equal(gold, answers[-1], ask)
    named = len(golds) == 2 and _NAME.fullmatch(golds[0])
    if named and (len(answers) == 1 or answers[0] == golds[0]):
        return equal(golds[-1], answers[-1], ask)
    return None


def _contradict(one: str, other: str, ask: Ask) -> bool:
    """Whether two constants that an answer sets equal are not, by more than rounding."""
    x, y = number(one), number(other)
    if x is None or y is None:
        return is_constant(one) and is_constant(other) and not equal(one, other, ask)
    return abs(x - y) * 10 ** len(other.partition(".")[2]) > Fraction(1, 2)


_MEMBER = re.compile(rf"{LETTER} ?\\in(?![A-Za-z]) ?")
_SETS = ("()", "(]", "[)", "[]")


def _relations(gold: str, answer: str, ask: Ask) -> bool | None:
    r"""x \in [-2,7], -2 \le x \le 7 and [-2,7] are one set, as 5 > x and (-\infty,5) are."""
    members = [_MEMBER.match(side) for side in (gold, answer)]
    if any(members):
        bare = [
            side[m.end() :] if m else side for side, m in zip((gold, answer), members, strict=True)
        ]
        return equal(bare[0], bare[1], ask)
    left, right = interval(gold), interval(answer)
    if left and right and r"\{" in (gold[:2], answer[:2]):
        return equal(left, right, ask)
    if left and not right and (r"\cup" in answer or collection(answer)[0] in _SETS):
        return equal(left, answer, ask)
    surely = r"\infty" in gold or r"\cup" in gold or collection(gold)[0] in _SETS[1:]
    if right and not left and surely:
        return equal(gold, right, ask)
    return None


def _collections(gold: str, answer: str, ask: Ask) -> bool | None:
    """Tuples and intervals in their order, sets and plain lists in any; no tuple is a set."""
    (kind, left), (other, right) = collection(gold), collection(answer)
    if not (kind and other):
        return None
    if (kind, other) == (",", "()") and (values := by_name(left)):
        kind, left = other, values
    elif (kind, other) == ("()", ",") and (values := by_name(right)):
        other, right = kind, values
    elif (kind, other) == ("()", ",") and of_one_name(right):
        return False
    if kind in LISTS and other in LISTS:
        if len(left) != len(right) or len(left) > MANY:
            return None
        for one in left:
            match = next((each for each in right if equal(one, each, ask)), None)
            if match is None:
                return False
            right.remove(match)
        return True
    if kind == other:
        return len(left) == len(right) and all(
            equal(one, each, ask) for one, each in zip(left, right, strict=True)
        )
    if "{}" in (kind, other) and min(len(left), len(right)) > 1:
        return False
    halves = {"(]", "[)"}
    return False if {kind, other} & halves and "," not in (kind, other) else None


_PROSE = re.compile("[A-Za-z]{2,}(?: [A-Za-z]{2,}){3}")


def _numbers(gold: str, answer: str, ask: Ask) -> bool | None:
    """72+7 is 79, and no number is 3x, ac9, (10, mere signs or four words of prose."""
    for one, other in ((gold, answer), (answer, gold)):
        value = number(one)
        if value is None:
            continue
        terms = polynomial(other)
        if terms is None:
            plain = "\\" not in other
            if plain and (_PROSE.search(other) or not re.search(r"\w", other) or _is_open(other)):
                return False
        elif terms.keys() <= {""}:
            if value != terms.get("", 0):
                return False
            return None if re.search("[A-Za-z]", other) else True  # x-x+3, but is "we find 0" 0?
        elif not re.search("[iI]", other) or (len(terms) == 1 and "".join(terms).strip("iI")):
            return False  # where terms with i^2 cannot cancel
    return None


def _is_open(text: str) -> bool:
    opening, closing = (sum(map(text.count, brackets)) for brackets in ("([", ")]"))
    return opening != closing


RULES = (  # in their order
    *(_numerals, _word_lists, _texts, _quantities, _chains),
    *(_relations, _collections, _numbers),
)
