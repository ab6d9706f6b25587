import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rac.datasets.overlap import overlapping, words

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=30).map(" ".join)


def slow(problem: str, others: list[str]) -> bool:
    mine = words(problem)
    for theirs in map(words, others):
        if mine == theirs:
            return True
        for i in range(len(mine) - 12):
            for j in range(len(theirs) - 12):
                if mine[i : i + 13] == theirs[j : j + 13]:
                    return True
    return False


@given(problems=st.lists(TEXTS, max_size=5), others=st.lists(TEXTS, max_size=5))
def test_thirteen_words_in_a_row_or_the_whole_text(problems, others):
    assert overlapping(problems, others) == [slow(problem, others) for problem in problems]


@pytest.mark.parametrize("other", ["What is $2+2$?", "what  is 2 + 2", "WHAT IS (2, 2)"])
def test_spelling_does_not_count(other):
    assert overlapping(["What is 2+2?"], [other]) == [True]
    assert overlapping(["What is 2+3?"], [other]) == [False]


def test_punctuation_alone_is_no_word():
    assert words(string.punctuation) == ()
