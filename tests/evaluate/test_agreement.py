"""Grades against labels that others gave, and golds against what is nearly them (data/README.md)."""

import random
import re
from pathlib import Path

import pytest

from rac.artifacts import read_jsonl
from rac.evaluate.comparer import compare
from rac.evaluate.math import grade_many
from rac.evaluate.spelling import normalise

DATA = Path(__file__).parent / "data"
GOLDS = [row["gold"] for row in read_jsonl(DATA / "math500.jsonl.zst")]
# Labels that are wrong, and why.
MISLABELLED = {"math_cot 72/7": r"10{,}000 is the gold, 10000, and was taken for another number"}


def disagreements(name: str, responses: list[str | None]) -> set[str]:
    """Rows of a file whose label is not our grade."""
    rows = read_jsonl(DATA / f"{name}.jsonl.zst")
    grades = grade_many(
        [
            (response, row["gold"], response is not None)
            for row, response in zip(rows, responses, strict=True)
        ]
    )
    return {
        f"{name} {row['id']}"
        for row, grade in zip(rows, grades, strict=True)
        if grade.correct != row["correct"]
    }


def test_the_graded_answers_of_gsm8k_agree_with_their_labels():
    rows = read_jsonl(DATA / "gsm8k.jsonl.zst")
    assert len(rows) == 5276
    boxed = ["" if row["answer"] is None else rf"\boxed{{{row['answer']}}}" for row in rows]
    assert disagreements("gsm8k", boxed) <= MISLABELLED.keys()


def test_the_graded_solutions_of_math_agree_with_their_labels():
    rows = read_jsonl(DATA / "math_cot.jsonl.zst")
    assert len(rows) == 800
    found = disagreements("math_cot", [row["response"] for row in rows])
    assert found == {name for name in MISLABELLED if name.startswith("math_cot")}


def respelled(gold: str) -> str:
    """The same answer, as another hand writes it."""
    gold = re.sub(r"\\d?frac ?(\d) ?(\d)", r"\\dfrac{\1}{\2}", gold)
    gold = gold.replace(r"\left", "").replace(r"\right", "").replace(r",\!", "{,}")
    return (
        gold.replace("pmatrix", "bmatrix")
        .replace(r"\text", r"\mbox")
        .replace("^\\circ", "^{\\circ}")
    )


@pytest.mark.slow
def test_every_gold_equals_itself_however_it_is_spelled():
    assert len(GOLDS) == 500
    assert all(
        grade.reason == "exact"
        for grade in grade_many([(rf"\boxed{{{g}}}", g, True) for g in GOLDS])
    )
    grades = grade_many(
        [(rf"so it is $\boxed{{ {respelled(g)} }}$.", g, True) for g in GOLDS], workers=2
    )
    assert [g for g, grade in zip(GOLDS, grades, strict=True) if not grade.correct] == []


def near_misses(gold: str) -> set[str]:
    """Answers that are not a gold, one slip away from it."""
    found = set()
    for digit in re.finditer(r"\d", gold):
        other = str((int(digit[0]) + 1) % 10)
        found.add(gold[: digit.start()] + other + gold[digit.end() :])
    for sign, other in (("+", "-"), ("-", "+"), (r"\cup", r"\cap"), ("sqrt", "frac12")):
        found |= {
            gold[: place.start()] + other + gold[place.end() :]
            for place in re.finditer(re.escape(sign), gold)
        }
    if re.match(r"[\d.\\]", gold) and not re.match(r"\\(text|left|begin|\{)|0$", gold):
        found.add("-" + gold)  # of a sum this is another number as well
    if gold.startswith("-"):
        found.add(gold[1:])
    if elements := re.fullmatch(r"(\\left)?([(\[]) *([^,]*),([^,]*?) *(\\right)?([)\]])", gold):
        opening, first, second, closing = elements[2], elements[3], elements[4], elements[6]
        found.add(f"{opening}{second},{first}{closing}")
        found.add(rf"\{{{first},{second}\}}")
        found.add(f"{'[' if opening == '(' else '('}{first},{second}{closing}")
        found |= {first, second, f"{opening}{first},{second},0{closing}"}
    if text := re.fullmatch(r"\\text\{\(?(\w+)\)?\}", gold):
        found |= {rf"\text{{not {text[1]}}}", rf"\text{{{text[1][:-1]}z}}", text[1][::-1] + "q"}
    for letter in set(re.findall(r"(?<![\\A-Za-z])[a-zA-Z](?![A-Za-z{])", gold)) - {"i"}:
        if r"\in" in gold:
            continue  # the letter of a set is bound
        found.add(re.sub(rf"(?<![\\A-Za-z]){letter}(?![A-Za-z])", "w", gold))
    return found - {gold}


@pytest.mark.slow
def test_no_gold_equals_what_is_nearly_it():
    pairs = [(gold, miss) for gold in dict.fromkeys(GOLDS) for miss in sorted(near_misses(gold))]
    assert len(pairs) > 900
    grades = grade_many([(rf"\boxed{{{miss}}}", gold, True) for gold, miss in pairs], workers=2)
    assert [pair for pair, grade in zip(pairs, grades, strict=True) if grade.correct] == []


# Golds of different problems that are one value, or one up to a unit that is understood.
SAME = [{"-2,1", "1,-2"}, {"x=5", "5"}]


@pytest.mark.slow
def test_golds_of_other_problems_are_wrong_answers():
    draw = random.Random(0)
    golds = [gold for gold in dict.fromkeys(GOLDS) if not gold.isdigit()]
    pairs = [draw.sample(golds, 2) for _ in range(600)]
    words = compare([(normalise(gold), normalise(answer)) for gold, answer in pairs], workers=2)
    plain = [{re.sub(r"\\mbox.*|\^\\circ|\\[$!d ]", "", gold) for gold in pair} for pair in pairs]
    assert [
        pair
        for pair, same, word in zip(pairs, plain, words, strict=True)
        if word != "different" and len(same) > 1 and set(pair) not in SAME
    ] == []
