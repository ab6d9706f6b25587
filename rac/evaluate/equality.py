"""Is one answer equal to another? What text alone decides beyond doubt; the rest is asked.

Equality is of values: 2/4 is 1/2, and 52_8 is 42_{10}, whatever form the problem wanted. Each rule
below corrects something that Math-Verify 0.9.0 has wrong (docs/evaluation.md lists them) or decides
what needs no algebra. A rule that is not sure says None, and the next one is tried.
"""

import re
from collections.abc import Callable, Iterable
from fractions import Fraction

from rac.evaluate.quantities import number, polynomial, same_quantity, scaled, split_unit
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
    left, right = split_unit(gold, strict=True), split_unit(answer)
    x, y = number(left.text), number(right.text)
    if x is not None and y is not None:
        return same_quantity(x, left.unit, y, right.unit)
    if not (left.unit or right.unit):
        return None
    kinds = {side.unit.kind for side in (left, right) if side.unit}
    if kinds == {"angle"}:
        in_radians = [
            side.text if side.unit is None else rf"\frac{{\pi}}{{180}}({side.text})"
            for side in (left, right)
        ]
        return equal(left.text, right.text, ask) or (
            None in (left.unit, right.unit) and ask(*for_algebra(*in_radians))
        )
    if kinds & {"share", "count"}:
        return None
    if left.unit and right.unit and left.unit.kind and right.unit.kind:
        if left.unit.kind != right.unit.kind:
            return False
        ratio = right.unit.size / left.unit.size
        return equal(left.text, scaled(right.text, ratio), ask)
    return equal(left.text, right.text, ask)


_NAME = re.compile(
    r"(?:\\?[A-Za-z]+|\\(?:text|mathrm) ?\{[^{}]*\})(?: ?_ ?(?:\w|\{\w+\}))?(?: ?\([a-zA-Z]\))?"
)
_ARITHMETIC = re.compile(r"(?:[\d +*/(){}^-]|\\(?:frac|cdot|times|sqrt|pi)(?![A-Za-z]))+")
_EQUALS = re.compile(r"(?<![<>!:\\])=")


def _chains(gold: str, answer: str, ask: Ask) -> bool | None:
    r"""x = 2+3 = 5 is 5, 1/3 = 0.333\ldots is 1/3, and 3 = 5 is nothing."""
    if r"\approx" in answer and r"\approx" not in gold:
        exact, rounded = (side.strip() for side in answer.split(r"\approx", 1))
        return equal(gold, exact if exact and not _NAME.fullmatch(exact) else rounded, ask)
    golds, answers = _parts(gold, _EQUALS), _parts(answer, _EQUALS)
    if len(golds) == len(answers) == 1 or len(_parts(answer, _COMMA)) > 1:
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
        exact = _ARITHMETIC.fullmatch(one) and _ARITHMETIC.fullmatch(other)
        return bool(exact) and not equal(one, other, ask)
    return abs(x - y) * 10 ** len(other.partition(".")[2]) > Fraction(1, 2)


_SIDES = re.compile(r"(\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>)")


def _relations(gold: str, answer: str, ask: Ask) -> bool | None:
    r"""x \in [-2,7], -2 \le x \le 7 and [-2,7] are one set, as 5 > x and (-\infty,5) are."""
    bare = [re.sub(r"^[A-Za-z] ?\\in(?![A-Za-z]) ?", "", side) for side in (gold, answer)]
    if bare != [gold, answer]:
        return equal(bare[0], bare[1], ask)
    left, right = _interval(gold), _interval(answer)
    if left and not right and _collection(answer)[0] in ("()", "(]", "[)", "[]"):
        return equal(left, answer, ask)
    if right and not left and (r"\infty" in gold or _collection(gold)[0] in ("(]", "[)", "[]")):
        return equal(gold, right, ask)
    return None


def _interval(text: str) -> str | None:
    """The interval that an inequality in one letter stands for."""
    parts = [part.strip() for part in _SIDES.split(text)]
    if len(parts) == 3 and re.fullmatch("[A-Za-z]", parts[2]):
        flip = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
        parts = [parts[2], flip[parts[1]], parts[0]]
    if len(parts) == 3 and re.fullmatch("[A-Za-z]", parts[0]) and parts[2]:
        if parts[1] in ("<", r"\le"):
            return rf"(-\infty,{parts[2]}{')' if parts[1] == '<' else ']'}"
        return rf"{'(' if parts[1] == '>' else '['}{parts[2]},\infty)"
    if len(parts) == 5 and re.fullmatch("[A-Za-z]", parts[2]) and parts[0] and parts[4]:
        if {parts[1], parts[3]} <= {">", r"\ge"}:
            flip = {">": "<", r"\ge": r"\le"}
            parts = [parts[4], flip[parts[3]], parts[2], flip[parts[1]], parts[0]]
        if {parts[1], parts[3]} <= {"<", r"\le"}:
            opening, closing = "(" if parts[1] == "<" else "[", ")" if parts[3] == "<" else "]"
            return f"{opening}{parts[0]},{parts[4]}{closing}"
    return None


_COMMA = re.compile(r",|;|\\(?:text|mbox) ?\{,? ?(?:and|or) ?\}|(?<= )(?:and|or)(?= )")
_LISTS = ("{}", ",")


def _collections(gold: str, answer: str, ask: Ask) -> bool | None:
    """Tuples and intervals in their order, sets and plain lists in any; no tuple is a set."""
    (kind, left), (other, right) = _collection(gold), _collection(answer)
    if not (kind and other):
        return None
    if kind in _LISTS and other in _LISTS:
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


def _collection(text: str) -> tuple[str, list[str]]:
    r"""The brackets around a collection ("," for none) and its elements, a ± b as two."""
    text = text.strip()
    kind, inner = ",", text
    if text.startswith(r"\{") and text.endswith(r"\}"):
        kind, inner = "{}", text[2:-2]
    elif len(text) > 2 and text[0] in "([" and text[-1] in ")]":
        kind, inner = text[0] + text[-1], text[1:-1]
    parts = _parts(inner, _COMMA)
    if len(parts) == 1 and kind not in _LISTS or not all(parts):
        return "", []
    if kind in _LISTS:
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


_BRACKETS = re.compile(r"\\begin|\\end|\\?[({\[\])}]")


def _parts(text: str, separator: re.Pattern[str]) -> list[str]:
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


RULES = (  # in their order
    *(_numerals, _texts, _quantities, _chains),
    *(_relations, _collections, _numbers),
)
