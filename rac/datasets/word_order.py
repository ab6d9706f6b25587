"""Passages of text that go on in their own words, in four orders: which is the right one?

A model of general text tells from a few words before. Chance gives a quarter.
"""

import random
from collections.abc import Iterable, Iterator

WORDS = 10  # given, and asked
CHOICES = 4


def problems(documents: Iterable[str], seed: int) -> Iterator[dict]:
    """Rows of all passages of 20 words, none of which overlap.

    Args:
        documents: texts.
        seed: of the orders.

    Yields:
        id, problem (ten words), choices (the next ten in four orders, the right one at any place) and answer.
    """
    for number, document in enumerate(documents):
        words = document.split()
        for start in range(0, len(words) - 2 * WORDS + 1, 2 * WORDS):
            given, asked = (words[start + i * WORDS :][:WORDS] for i in (0, 1))
            name = f"{number}-{start}"
            drawn = random.Random(f"{seed} {name}")
            orders = {(answer := " ".join(asked)): None}
            while len(set(asked)) >= CHOICES and len(orders) < CHOICES:
                orders[" ".join(drawn.sample(asked, WORDS))] = None
            if len(orders) == CHOICES:
                choices = drawn.sample(list(orders), CHOICES)
                yield {"id": name, "problem": " ".join(given), "choices": choices, "answer": answer}
