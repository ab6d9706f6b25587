"""Calibration problems that are evaluation problems too: most of one is in the other.

What is compared are runs of thirteen words (arXiv 2005.14165, appendix C). A single one that two problems
share tells little: "it is guaranteed that the sum of n over all test cases does not exceed …" is in a third
of Codeforces' problems.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

WORDS = 13
SHARE = (
    0.5  # of the runs of the shorter problem: between versions of a problem and others of its kind
)
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, without case, punctuation and markup signs."""
    return tuple(_WORD.findall(text.casefold()))


def runs(text: str) -> set[tuple[str, ...]]:
    """All runs of thirteen words of a text; the whole text if it has fewer."""
    said = words(text)
    return {said[i : i + WORDS] for i in range(max(len(said) - WORDS + 1, 1))}


def overlapping(problems: Iterable[str], others: Iterable[str]) -> list[bool]:
    """Whether each problem shares half of the runs that it, or the other problem, has with one of `others`.

    Problems of fewer than thirteen words are compared as a whole. Spelling, case, spaces and punctuation do
    not count.
    """
    having: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes = []
    for number, text in enumerate(others):
        theirs = runs(text)
        sizes.append(len(theirs))
        for run in theirs:
            having[run].append(number)
    found = []
    for text in problems:
        mine = runs(text)
        shared = Counter(number for run in mine for number in having.get(run, ()))
        found.append(
            any(count >= SHARE * min(len(mine), sizes[number]) for number, count in shared.items())
        )
    return found
