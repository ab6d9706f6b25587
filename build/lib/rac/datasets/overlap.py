"""Calibration problems that are evaluation problems too: the same text, or thirteen words in a row of it."""

import re
from collections.abc import Iterable, Iterator

WORDS = 13  # as GPT-3's authors counted (arXiv 2005.14165, appendix C)
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text, without case, punctuation and markup signs."""
    return tuple(_WORD.findall(text.casefold()))


def runs(text: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All runs of thirteen words; the whole text if it has fewer."""
    for start in range(max(len(text) - WORDS + 1, 1)):
        yield text[start : start + WORDS]


def overlapping(problems: Iterable[str], others: Iterable[str]) -> list[bool]:
    """Whether each problem is one of `others`, or shares a run of thirteen words with one.

    Problems of fewer words are compared as a whole. Spelling, case, spaces and punctuation do not count.
    """
    known = {run for text in others for run in runs(words(text))}
    return [any(run in known for run in runs(words(text))) for text in problems]
