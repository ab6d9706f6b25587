import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rac.evaluate import math as module
from rac.evaluate.math import grade_many, grade_math, last_boxed


@pytest.mark.parametrize(
    ("answer", "gold"), [("8", "7"), ("-7", "7"), ("70", "7"), ("", "7"), ("9" * 100_000, "7")]
)
def test_integers_are_told_apart_without_mathematics(answer, gold, monkeypatch):
    monkeypatch.setattr(module, "compare", None)
    assert grade_math(rf"\boxed{{{answer}}}", gold) == (False, "different")


@pytest.mark.parametrize(
    ("response", "finished", "grade"),
    [
        (r"<think>so \boxed{7}", True, (False, "unfinished thought")),
        (r"<think>so \boxed{7}", False, (False, "unfinished thought")),
        (r"<think>\boxed{8}</think>\boxed{7}", True, (True, "exact")),
        (r"<think>\boxed{7}</think>\boxed{8}", True, (False, "different")),
        (r"<think>\boxed{7}</think> it is 7", True, (False, "no boxed answer")),
        (r"<think></think>\boxed{7} and", False, (True, "exact")),
        (r"<think></think>so \boxed{7", False, (False, "unfinished")),
        (r"\boxed{7}", True, (True, "exact")),
        (r"\boxed{7}", False, (False, "unfinished")),
        (r"\boxed{8} no, \boxed{7}", True, (True, "exact")),
        ("7", True, (False, "no boxed answer")),
        ("", True, (False, "no boxed answer")),
    ],
)
def test_only_a_finished_thought_is_graded(response, finished, grade):
    assert grade_math(response, "7", finished) == grade


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{1}", "1"),
        (r"\boxed {1}", "1"),
        (r"\boxed{\frac{1}{2}} or \boxed{3", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{\boxed{5}}", "5"),
        (r"} { \boxed{5}", "5"),
        (r"\\boxed{5}", None),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed5", None),
        ("", None),
    ],
)
def test_the_last_closed_box(text, inside):
    assert last_boxed(text) == inside


@given(st.lists(st.sampled_from(["\\boxed{", "{", "}", "\\{", "\\\\", "1", "\\"]), max_size=25))
def test_the_last_closed_box_as_a_slow_search_finds_it(parts):
    text = "".join(parts)

    def tokens(start):  # (position, token) with escapes kept whole
        i = start
        while i < len(text):
            size = 7 if text.startswith("\\boxed{", i) else 2 if text[i] == "\\" else 1
            yield i, text[i : i + size]
            i += size

    starts = [i + 7 for i, token in tokens(0) if token == "\\boxed{"]
    for start in reversed(starts):
        depth = 1
        for i, token in tokens(start):
            depth += {"{": 1, "\\boxed{": 1, "}": -1}.get(token, 0)
            if depth == 0:
                assert last_boxed(text) == text[start:i]
                return
    assert last_boxed(text) is None


def test_a_hundred_kilobytes_of_braces_are_quick():
    start = time.monotonic()
    assert grade_math("\\boxed{" * 15_000, "7").reason == "no boxed answer"
    assert grade_math("\\boxed{" + "{" * 100_000, "7").reason == "no boxed answer"
    assert time.monotonic() - start < 2


def test_many_are_graded_in_their_order_whatever_the_number_of_workers():
    responses = [
        (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", True),
        (r"<think>\boxed{7}", "7", True),
        (r"\boxed{2\sqrt{5}}", r"\sqrt{12}", True),
        (r"\boxed{7", "7", False),
        (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", False),
    ] * 10
    grades = grade_many(responses, workers=1)
    assert grades[:5] == [grade_math(*response) for response in responses[:5]]
    assert [grade.reason for grade in grades[:3]] == ["equal", "unfinished thought", "different"]
    assert grade_many(responses, workers=3) == grades == grades[:5] * 10
    assert grade_many([]) == []


def test_threads_may_grade():
    grades = []
    threads = [
        threading.Thread(target=lambda: grades.append(grade_math(r"\boxed{2\sqrt3}", r"\sqrt{12}")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grades == [(True, "equal")] * 4


def test_grading_integers_imports_no_mathematics():
    code = (
        "import sys; from rac.evaluate.math import grade_math; "
        r"assert grade_math(r'\boxed{7}', '7').correct; "
        "assert not {'sympy', 'math_verify', 'torch', 'numpy', 'lm_eval'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
