import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rac.evaluate.equality import decided
from rac.evaluate.math import grade_many
from rac.evaluate.spelling import is_integer, normalise

DATA = Path(__file__).parent / "data"


def cases() -> Iterator[tuple[str, str, bool]]:
    """(gold, answer, same) of equality.txt: golds, each with its `=` and `!` lines."""
    gold = ""
    for line in (DATA / "equality.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(("  = ", "  ! ")):
            yield gold, line[4:], line[2] == "="
        elif line and not line.startswith("# "):
            gold = line
            yield gold, gold, True


CASES = list(cases())


@pytest.fixture(scope="module")
def grades():
    """All cases graded in one go."""
    boxed = [(rf"\boxed{{{answer}}}", gold, True) for gold, answer, _ in CASES]
    return dict(zip(CASES, grade_many(boxed, workers=2), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]} {'=' if c[2] else '≠'} {c[1]}")
def test_each_correction_accepts_what_is_right_and_nothing_near(case, grades):
    same = case[2]
    assert grades[case].correct == same
    assert grades[case].reason in (("exact", "equal") if same else ("different",))


def test_what_text_decides_it_decides_rightly():
    for gold, answer, same in CASES:
        verdict = decided(normalise(gold), normalise(answer))
        assert verdict in (same, None), (gold, answer)


def alone(gold: str, answer: str) -> bool:
    """What Math-Verify says by itself."""
    from math_verify import LatexExtractionConfig, LatexNormalizationConfig, parse, verify

    config = LatexNormalizationConfig(units=False, malformed_operators=True, nits=True)
    sides = [
        parse(
            f"${side}$", [LatexExtractionConfig(normalization_config=config)], parsing_timeout=None
        )
        for side in (gold, answer)
    ]
    return verify(*sides, numeric_precision=50, timeout_seconds=None)


WORDS = ["pi", "sin", "log", " sqrt ", "mod", " and ", " or ", "inf", "dx", "ln", "frac", "pct"]
WORDS += ["we find the answer ", "(", ")", "[", " "]
PIECES = [*"0123456789+-*xyiIeEdC", "10", "2.5", "^1", "^2", "^3", *WORDS]


@pytest.mark.slow
@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.integers(1, 12))
def test_what_text_says_is_no_number_is_none_for_math_verify(text, gold):
    answer = normalise(text)
    assume(answer and not is_integer(answer) and not re.search(r"\d \d", answer))  # which it adds
    assume(decided(str(gold), answer) is False)
    assert not alone(str(gold), answer)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["+", "-", "*", " + ", " - ", " * "]), st.decimals(0, 99, places=1)
        ),
        min_size=2,
        max_size=6,
    ),
    st.sampled_from([0, 0, 1]),
)
def test_sums_of_products_come_to_what_python_makes_of_them(parts, more):
    text = "".join(sign + str(factor) for sign, factor in parts).lstrip(" +*")
    value = eval(re.sub(r"[\d.]+", r"Fraction('\g<0>')", text))
    gold = normalise(f"{value.numerator + more * value.denominator}/{value.denominator}")
    assert decided(gold, normalise(text)) == (more == 0)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("007", "7"),
        ("+7", "7"),
        ("-0", "0"),
        ("$5$", "5"),
        (r"\(5\)", "5"),
        ("5.", "5"),
        ("5\\ ", "5"),
        (r"5\;.\,", "5"),
        (r"5\\", r"5\\"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\frac9{19}", r"\frac{9}{19}"),
        (r"\frac{270}7", r"\frac{270}{7}"),
        (r"\frac ab", r"\frac{a}{b}"),
        (r"\left(1,\ 2\right)", "(1, 2)"),
        (r"\leftarrow", r"\leftarrow"),
    ],
)
def test_normalise(answer, normal):
    assert normalise(answer) == normal


@given(st.text(max_size=40))
def test_normalising_twice_changes_integers_no_further(text):
    once = normalise(text)
    if is_integer(once):
        assert normalise(once) == once


def spellings(value: Fraction) -> list[str]:
    """Ways to write a number."""
    sign, size = "-" if value < 0 else "", abs(value)
    whole, rest = divmod(size.numerator, size.denominator)
    ways = [
        rf"{sign}\frac{{{size.numerator}}}{{{size.denominator}}}",
        f"{sign}{2 * size.numerator}/{2 * size.denominator}",
        rf"x = {sign}{size.numerator} / {size.denominator} \text{{ apples}}",
    ]
    if rest:
        ways.append(rf"{sign}{whole}\frac{{{rest}}}{{{size.denominator}}}")
        ways.append(rf"{sign}{whole} {rest}/{size.denominator}")
    digits, seen = "", {}  # long division
    while rest and rest not in seen:
        seen[rest] = len(digits)
        digit, rest = divmod(10 * rest, size.denominator)
        digits += str(digit)
    if rest:
        start = seen[rest]
        ways.append(rf"{sign}{whole}.{digits[:start]}\overline{{{digits[start:]}}}")
    else:
        ways.append(f"{sign}{whole:,}.{digits}0")
        ways.append(rf"{sign}{whole}{digits} \times 10^{{{-len(digits)}}}")
    return ways


FRACTIONS = st.fractions(-2000, 2000, max_denominator=60)


@given(FRACTIONS, FRACTIONS | st.none(), st.data())
def test_rational_numbers_in_any_spelling_are_told_apart_exactly(one, other, data):
    other = one if other is None else other
    gold, answer = (data.draw(st.sampled_from(spellings(value))) for value in (one, other))
    assert decided(normalise(gold), normalise(answer)) == (one == other)


SCRAPS = [
    *"12.,;-+/=<>()[]{}xt^_",
    "12",
    "_8",
    "_{8}",
    r"\{",
    r"\}",
    r"\%",
    r"\$",
    " or ",
    "(C)",
    " ",
]
SCRAPS += [
    r"\pm",
    r"\le ",
    r"\ge ",
    r"\in ",
    r"^\circ",
    r"\infty",
    " cm",
    r"\text{ cm}",
    r"\text{A}",
    r"\{x:",
    r"\text{A, B}",
    r"\text{ p.m.}",
    r"\cup ",
    " apples",
    "y=",
]
SCRAPS += [r"\frac", r"\frac{1}{2}", r"\overline{3}", "10^{-3}", r"\approx ", r"\sin ", "9" * 5000]


@given(*[st.lists(st.sampled_from(SCRAPS), max_size=12).map("".join)] * 2)
def test_no_text_breaks_the_rules(one, other):
    one, other = normalise(one), normalise(other)
    assert decided(one, one)
    decided(one, other)


def test_the_rules_need_little_time_for_any_text():
    start = time.process_time()
    for text in (
        "(" * 200 + "1,1)" * 50,
        r"\{1," * 80,
        "1," * 200,
        "=" * 400,
        r"\pm" * 130,
        "1 " * 200,
        r"\{x:" * 80,
        " or x<1" * 50,
        r"{1} a" * 80,
        r"\text{A" + ",A" * 180 + "}",
        "x=1,y=2," * 50,
    ):
        decided(normalise(text), normalise(text + "1"))
    for text in ("a ", "1+", "a -", "2*", "x^2 ", "- ", "we find ", "1 a", "11"):
        for after in ("!", "", ")"):
            decided("7", normalise(text * (390 // len(text)) + after))
    for text in ("{", "(", r"\frac{", r"\frac ", "1,", "1 ", " ", ".", r"\text{", "^", "0"):
        decided("x", normalise(text * (100_000 // len(text))))
    assert time.process_time() - start < 2


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "1.", r"\sin ", r"\frac{"])
def test_time_grows_with_the_length_of_a_text_and_not_with_its_square(before):
    """What is squared takes ten seconds for one of these, and is run where nothing can end it."""
    for part in ("0", "9", "1.", "1,", "1 ", " ", "a", r"\frac ", r"\ ", "00 ", r"\, "):
        for after in ("x", "(", "^"):
            start = time.process_time()
            text = before + part * (100_000 // len(part)) + after
            decided(normalise(r"\frac12"), normalise(text))
            decided(r"\sin x", text)
            assert time.process_time() - start < 2, (before, part, after)
