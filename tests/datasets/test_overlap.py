import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rac.datasets.overlap import overlapping, words

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=30).map(" ".join)


def slow(problem: str, others: list[str]) -> bool:
    """By lists of the runs, as strings."""

    def listed(text):
        said = [str(word) for word in words(text)]
        return sorted({" ".join(said[i : i + 13]) for i in range(len(said)) if i + 13 <= len(said)})

    for theirs in others:
        if words(problem) == words(theirs):
            return True
        one, other = listed(problem), listed(theirs)
        both = [run for run in one if run in other]
        if both and 2 * len(both) >= min(len(one), len(other)):
            return True
    return False


@given(problems=st.lists(TEXTS, max_size=5), others=st.lists(TEXTS, max_size=5))
def test_half_of_the_runs_or_the_whole_text(problems, others):
    assert overlapping(problems, others) == [slow(problem, others) for problem in problems]


STATEMENT = (
    "Vasya has n stones in a row, and each of them weighs a different number of grams. In one move he takes "
    "every second one of those that are left, beginning with the lightest, and puts the heaviest of what he "
    "took back at the end of the row. He stops as soon as fewer than three stones remain in front of him."
)
USUAL = (
    "It is guaranteed that the sum of n over all test cases does not exceed 2 * 10^5. "
    "For each test case print a single integer on a line of its own."
)


def test_how_problems_are_worded_is_not_what_they_ask():
    other = (
        "Petya colours the edges of a tree so that no path of three edges has one colour. In how "
        f"many ways can that be done if two colourings that a rotation joins count as one. {USUAL}"
    )
    assert overlapping([f"{STATEMENT} How many remain? {USUAL}"], [other]) == [False]


def test_a_problem_inside_a_prompt_or_with_another_end_is_found():
    asked = f"{STATEMENT} How many remain? {USUAL}"
    prompt = f"You are to write a program. {asked} Put it in one block, and test it on the examples below."
    assert overlapping([prompt, f"{STATEMENT} Who wins?"], [asked]) == [True, True]


@pytest.mark.parametrize("other", ["What is $2+2$?", "what  is 2 + 2", "WHAT IS (2, 2)"])
def test_spelling_does_not_count(other):
    assert overlapping(["What is 2+2?"], [other]) == [True]
    assert overlapping(["What is 2+3?"], [other]) == [False]


def test_punctuation_alone_is_no_word():
    assert words(string.punctuation) == ()
