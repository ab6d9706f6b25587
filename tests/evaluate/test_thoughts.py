import pytest

from rac.evaluate.thoughts import answer_part


@pytest.mark.parametrize(
    ("response", "finished", "answer", "reason"),
    [
        ("<think>a</think>b", True, "b", ""),
        ("<think>a</think>b", False, "b", ""),
        ("a</think>b", False, "b", ""),  # the prompt opened the thought
        ("<think>a</think>b<think>c</think>d", True, "d", ""),
        ("<think>a", True, None, "unfinished thought"),
        ("<think>a", False, None, "unfinished thought"),
        ("<think>a</think>b<think>c", True, None, "unfinished thought"),
        ("a", True, "a", ""),
        ("a", False, None, "unfinished"),
        ("", True, "", ""),
    ],
)
def test_what_follows_the_thought(response, finished, answer, reason):
    assert answer_part(response, finished) == (answer, reason)
