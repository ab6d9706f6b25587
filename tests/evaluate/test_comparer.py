import os
import resource
import signal
import time

import pytest

from rac.evaluate import comparer as module
from rac.evaluate.comparer import Comparer, compare
from rac.evaluate.math import grade_many, grade_math

GOLD = r"\sqrt{12}"
START = 3.0  # of processor time, to import Math-Verify and sympy
EQUAL, DIFFERENT = (GOLD, r"2\sqrt{3}"), (GOLD, r"3\sqrt{2}")


@pytest.fixture
def comparer():
    comparer = Comparer()
    yield comparer
    comparer.close()


def test_a_process_that_dies_is_replaced_and_the_pair_asked_again(comparer):
    assert comparer.compare(*EQUAL) == "equal"
    comparer._process.kill()
    assert comparer.compare(*EQUAL) == "equal"


def test_a_pair_that_kills_a_new_process_too_has_crashed(comparer, monkeypatch):
    started = []

    def start(self):
        process = original(self)
        process.send_signal(signal.SIGKILL)
        started.append(process)
        return process

    original = Comparer._start
    monkeypatch.setattr(Comparer, "_start", start)
    assert comparer.compare(*EQUAL) == "crashed"
    assert len(started) == 1  # no third try
    monkeypatch.undo()
    assert comparer.compare(*DIFFERENT) == "different"


def test_a_process_that_spends_no_time_and_says_nothing_is_ended(comparer, monkeypatch):
    assert comparer.compare(*EQUAL) == "equal"
    comparer._process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(module, "STALLED", 0.2)
    # More than a pipe holds, so that writing waits too.
    assert comparer.compare(GOLD, "x" * 1_000_000) == "time limit"
    monkeypatch.undo()
    assert comparer.compare(*DIFFERENT) == "different"


def test_words_come_in_the_order_of_the_pairs_whatever_the_workers():
    pairs = [EQUAL, DIFFERENT, DIFFERENT] * 20
    words = ["equal", "different", "different"] * 20
    assert compare(pairs, workers=1) == compare(pairs, workers=3) == words


def spent():
    """Processor time of all comparers that this process has started, which are ended for that."""
    module._pool(os.getpid())._close()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        "10^{10^{10}}",
        "1000000000!",
        r"\frac{" * 20_000 + "1" + "}" * 20_000,
        r"\sqrt{" * 500 + "2" + "}" * 500,
        "{" * 50_000 + "x" + "}" * 50_000,
        "(" * 300 + "1" + ",2)" * 300,
        r"\sum_{n=1}^{10^9} \sin n",
        r"\int_0^1 x^{x^{x^x}} dx",
        "(x+y+z+w)^{5000}",
        "9" * 100_000 + "/" + "7" * 100_000,
        "1" + "-1" * 30_000,
        "0" * 100_000 + "x",
        r"\sin " + "9" * 100_000,
        r"\text{" + "a " * 50_000 + "}",
    ],
    ids=lambda answer: answer[:20],
)
def test_a_hostile_answer_costs_its_time_and_nothing_else(answer):
    before, own = spent(), time.process_time()
    grade = grade_math(rf"\boxed{{{answer}}}", GOLD)
    assert not grade.correct
    assert grade.reason in ("time limit", "different", "crashed")
    assert time.process_time() - own < 1  # the time was spent in another process
    # A process that earlier pairs left short of memory is asked again in a new one: two limits at most.
    assert spent() - before < 2 * (module.SECONDS + START)
    assert compare([EQUAL, DIFFERENT]) == ["equal", "different"]


@pytest.mark.slow
def test_hostile_answers_among_many_delay_them_by_their_time_and_no_verdict_changes():
    good = [(rf"\boxed{{{n}\sqrt{{3}}}}", GOLD, True) for n in range(1, 60)]
    bad = (r"\boxed{10^{10^{10}}}", GOLD, True)
    grades = grade_many([bad, *good[:30], bad, *good[30:]], workers=2)
    assert [grades[0], grades[31]] == [(False, "time limit")] * 2
    assert [grade.correct for grade in grades[1:31] + grades[32:]] == [n == 2 for n in range(1, 60)]
