import math

import numpy as np
import pytest

from rac.evaluate.statistics import half_width
from rac.ratio import ratio


def test_ratio_and_its_standard_error():
    scored = [(8.0, 4), (9.0, 3), (30.0, 10), (1.0, 2)]
    loss, se = ratio(scored)
    assert loss == pytest.approx(48 / 19)
    # The textbook form: s² of the residuals y - R x, over n times the squared mean of x.
    squares = [(y - loss * x) ** 2 for y, x in scored]
    assert se == pytest.approx(math.sqrt(sum(squares) / 3 / 4) / (19 / 4))
    assert ratio([(3.0, 2)]) == (1.5, None)


def test_its_interval_covers_at_its_rate():
    """40 texts of unlike lengths, of which the long ones are easier: losses a token hang on the text."""
    generator, texts, rounds = np.random.default_rng(0), 40, 2000

    def draw(count):
        tokens = generator.integers(50, 400, count)
        return tokens, tokens * (3 - tokens / 400 + generator.gamma(2, 0.3, count))

    tokens, losses = draw(1_000_000)
    truth, covered, equal = losses.sum() / tokens.sum(), 0, 0
    for _ in range(rounds):
        tokens, losses = draw(texts)
        loss, se = ratio(list(zip(losses, tokens, strict=True)))
        covered += abs(loss - truth) <= half_width(se, texts)
        # As if each token were drawn by itself, at best.
        each = np.repeat(losses / tokens, tokens)
        equal += abs(loss - truth) <= 1.96 * each.std() / math.sqrt(len(each))
    # Of 95 %: three standard deviations of the count are 1.5 points; ratios of few texts cover less.
    assert 0.925 <= covered / rounds <= 0.965
    assert equal / rounds < 0.3
