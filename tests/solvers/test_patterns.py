from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac.solvers.patterns import Pattern, kept, parse, smallest


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("unstructured 0.5", Pattern(Fraction(1, 2), 1)),
        ("unstructured 0.29", Pattern(Fraction(29, 100), 1)),
        ("unstructured 1e-05", Pattern(Fraction(1, 100000), 1)),
        ("2:4", Pattern(Fraction(1, 2), 4)),
        ("1:32", Pattern(Fraction(31, 32), 32)),
    ],
)
def test_names(text, pattern):
    assert parse(text) == pattern


@pytest.mark.parametrize(
    "text",
    ["", "0.5", "unstructured", "unstructured 0", "unstructured 1", "unstructured -0.5", "2:4 "]
    + ["unstructured 50%", "4:4", "0:4", "5:4", "1:33", "2:4:8", "structured 0.5"],
)
def test_other_names_are_refused(text):
    with pytest.raises(ValueError, match="neither 'unstructured S'"):
        parse(text)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
def test_smallest_is_the_stable_order(values, data):
    count = data.draw(st.integers(0, len(values)))
    chosen = smallest(torch.tensor(values, dtype=torch.float32), count)
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    assert chosen.nonzero().flatten().tolist() == sorted(order[:count])


def test_a_share_is_a_decimal_number_not_a_float():
    # int(0.29 * 100) is 28
    assert (~kept(torch.rand(100), parse("unstructured 0.29"))).sum() == 29


@given(st.integers(1, 31), st.integers(1, 5), st.integers(1, 4))
def test_every_group_keeps_n_of_m(n, rows, groups):
    m = n + 1
    mask = kept(torch.zeros(rows, groups * m), parse(f"{n}:{m}"))
    assert (mask.view(rows, groups, m).sum(-1) == n).all()
