import time

from hypothesis import given, settings
from hypothesis import strategies as st

from rac.evaluate.loops import is_looping


def test_a_response_that_repeats_itself_is_looping():
    assert not is_looping(list(range(500)))
    assert not is_looping([1, 1, 1])
    assert is_looping([*range(300), *[5, 6, 7] * 64])
    assert is_looping([7] * 40)
    assert not is_looping([*[5, 6, 7] * 64, *range(192)])


@given(
    st.randoms(use_true_random=False),
    st.integers(0, 3000),
    st.integers(64, 1200),
    st.floats(2, 5),
    st.integers(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_a_repeated_paragraph_is_a_loop(random, before, period, times, after):
    """Cut anywhere; not where something else follows, nor where it is not there often enough."""
    text = [random.randrange(1000) for _ in range(before)]
    paragraph = [random.randrange(1000) for _ in range(period)]
    ends = round(times * period)
    text += (paragraph * 6)[:ends] + [5000] * after
    enough = ends >= (2 if period >= 256 else 3) * period
    of_its_end = period <= 92 and is_looping(text[-192:])  # which changes less
    assert is_looping(text) == (enough and not after or of_its_end)


def test_text_with_a_form_is_no_loop():
    steps = [[1, 2, 3, 100 + i, 4, *range(10 * i, 10 * i + 20)] for i in range(200)]
    assert not is_looping([token for step in steps for token in step])
    table = [[9, *[i * j for j in range(20)]] for i in range(1, 100)]
    assert not is_looping([token for row in table for token in row])
    program = list(range(300))
    assert not is_looping([*range(500, 900), *program, 7, 8, *program, 2])  # thought of, and said


def test_looking_for_loops_costs_little():
    start = time.process_time()
    often = [*[7] * 3900, *range(100, 284), *[7] * 8]  # many periods to look at, and none of them
    for text in ([*range(50_000)], often, [i % 193 for i in range(4500)]):
        for _ in range(10):
            is_looping(text)
    assert time.process_time() - start < 2
