import pytest

from rac.definitions import Select
from rac.select import select

ANSWERS = {"easy": "1", "hard": "2"}
# id, what was said, how it ended, decode tokens
SAID = [
    ("easy", "</think>\\boxed{1}", "stop", 5),
    ("easy", "</think>\\boxed{1}", "stop", 9),
    ("hard", "</think>\\boxed{2}", "stop", 30),
    ("hard", "</think>\\boxed{7}", "stop", 12),
    ("hard", "\\boxed{2}", "length", 40),
    ("hard", "</think>\\boxed{3}", "stop", 12),
]
TRACES = [
    {"id": name, "said": f"<think>{text}", "finish_reason": reason, "n": i}
    | {"token_ids": [0] * (3 + tokens), "prompt_length": 3}
    for i, (name, text, reason, tokens) in enumerate(SAID)
]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"correct": True}, [0, 1, 2]),
        ({"correct": False}, [3, 4, 5]),
        ({"finished": True}, [0, 1, 2, 3, 5]),
        ({"tokens": (9, 12)}, [1, 3, 5]),
        ({"difficulty": (0, 0)}, [0, 1]),
        ({"difficulty": (0.5, 0.75)}, [2, 3, 4, 5]),
        ({"difficulty": (0.76, 1)}, []),
        ({"correct": True, "difficulty": (0.1, 0.9)}, [2]),
        ({"order": "shortest"}, [0, 1, 3, 5, 2, 4]),
        ({"order": "longest", "finished": True}, [2, 3, 5, 1, 0]),
    ],
)
def test_what_is_chosen(asked, expected):
    chosen = select(TRACES, Select(**asked), ANSWERS, lambda row: row["said"])
    assert [row["n"] for row in chosen] == expected


@pytest.mark.parametrize(("wrong", "count"), [(1, 10), (3, 10), (1, 5), (4, 5), (1, 3)])
def test_a_problem_on_the_bound_is_taken(wrong, count):
    right = TRACES[0]
    traces = [right | {"said": "</think>\\boxed{7}"}] * wrong + [right] * (count - wrong)
    for bounds in ((wrong / count, 1), (0, wrong / count)):
        chosen = select(traces, Select(difficulty=bounds), ANSWERS, lambda row: row["said"])
        assert len(chosen) == count


def test_answers_are_looked_at_only_if_they_count():
    assert select(TRACES, Select(finished=True), {}, None)
