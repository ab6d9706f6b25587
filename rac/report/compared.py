"""Paired differences: each calibration minus the dense model, and minus the calibrations before it."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rac.artifacts import read_json
from rac.errors import RacError
from rac.evaluate.statistics import (
    Difference,
    by_problem,
    detectable,
    differences,
    fewest_samples,
    half_width,
    holm,
    p_value,
    paired_difference,
    votes,
)
from rac.ratio import ratio

LOSSES = ("loss_thoughts", "loss_text", "kl_thoughts", "kl_text")
VALUES = ("majority", "loss", *LOSSES)
ENDS = ("difference", "difference_se", "difference_low", "difference_high")
COMPARED = (
    *("model", "variant", "eval", "calibration", "baseline", *Difference._fields),
    *("p_value", "p_holm", "detectable"),
    *(f"{value}_{end}" for value in VALUES for end in ENDS),
)


def comparisons(cells: list[dict], scores: dict[str, list[dict]]) -> list[dict[str, Any]]:
    """The rows of comparisons.csv: every two cells of a model, variant and eval, the dense cell first.

    Args:
        cells: of `rac.matrix.summary_cells`, the dense one of a model before the others.
        scores: rows of scores.jsonl.zst by their path.

    Raises:
        RacError: two that are compared are not over the same problems or sequences.
    """
    dense = {(cell["model"], cell["eval"]): cell for cell in cells if cell["dense"]}
    # Of a cell that is not evaluated only losses are compared, which every dense cell of the model has.
    dense |= {(model, None): cell for (model, _), cell in reversed(dense.items())}
    shared: dict[tuple, list[dict]] = {}
    for cell in cells:
        if not cell["dense"]:
            key = (cell["model"], cell["variant"], cell["eval"])
            first = dense.get((cell["model"], cell["eval"]))
            shared.setdefault(key, [first] if first else []).append(cell)
    rows = [
        {
            **{key: other[key] for key in ("model", "variant", "eval", "calibration")},
            "baseline": "dense" if baseline["dense"] else baseline["calibration"],
            **measured,
        }
        for group in shared.values()
        for baseline, other in itertools.combinations(group, 2)
        if (measured := _compared(other, baseline, scores))
    ]
    for against_dense in (True, False):
        family = [
            row
            for row in rows
            if (row["baseline"] == "dense") == against_dense and "p_value" in row
        ]
        adjusted = holm([row["p_value"] for row in family])
        for row, p in zip(family, adjusted, strict=True):
            row["p_holm"] = p
    return rows


def _compared(cell: dict, baseline: dict, scores: dict[str, list[dict]]) -> dict[str, Any]:
    """All that is measured of both: accuracy under bare names, the rest as `named` has it."""
    row: dict[str, Any] = {}
    paths = cell["scores"], baseline["scores"]
    if all(paths) and has(paths[0], "correct", scores):
        each, samples = of_problems(*paths, "correct", scores)
        row |= paired_difference(each, samples)._asdict()
        row |= {"p_value": p_value(each), "detectable": detectable(each, samples)}
        voted = [votes(scores[path]) for path in paths]
        if voted[0] and voted[1]:
            each = [voted[0][key] - voted[1][key] for key in voted[0]]
            row |= named("majority", paired_difference(each, samples=1))
    if all(paths) and has(paths[0], "loss", scores):
        texts = [[(one["loss"], one["tokens_scored"]) for one in scores[path]] for path in paths]
        row |= named("loss", _of_texts(texts, paths))
    found = cell["losses"], baseline["losses"]
    if all(found):
        ours, theirs = (read_json(Path(path))["per_sequence"] for path in found)
        for role in ours:
            for place, key in enumerate(("loss", "kl")):
                pairs = [[(one[place], one[2]) for one in of[role]] for of in (ours, theirs)]
                row |= named(f"{key}_{role}", _of_texts(pairs, found))
    return row


def named(value: str, found: Difference) -> dict[str, float]:
    """A difference as columns of a table."""
    return dict(zip((f"{value}_{end}" for end in ENDS), found, strict=True))


def has(path: str, key: str, scores: dict[str, list[dict]]) -> bool:
    """Whether the samples of a score file have a number that not all tasks give."""
    return all(row.get(key) is not None for row in scores[path])


def of_problems(a: str, b: str, key: str, scores: dict[str, list[dict]]) -> tuple[list[float], int]:
    """Differences of `key` between two score files, a − b, one a problem; and the samples of a problem.

    Raises:
        RacError: they are not over the same problems.
    """
    ours, theirs = (by_problem(scores[path], key) for path in (a, b))
    try:
        return differences(*ours, *theirs), fewest_samples(ours[1], theirs[1])
    except ValueError as error:
        raise RacError(f"{a} and {b} cannot be compared, {error}; generate again") from None


def _of_texts(measured: list[list[tuple[float, int]]], paths: Sequence[str]) -> Difference:
    """The difference of two losses a token, of the cell and of its baseline, read from `paths`."""
    try:
        return difference_of_texts(*measured)
    except ValueError as error:
        raise RacError(
            f"{paths[0]} and {paths[1]} cannot be compared, {error}; delete them to have them made again"
        ) from None


def difference_of_texts(
    ours: Sequence[tuple[float, int]], theirs: Sequence[tuple[float, int]]
) -> Difference:
    """The difference of two losses a token over the same texts, paired by text, with a 95 % t-interval.

    Args:
        ours: a loss and its number of tokens, a text.
        theirs: the same of what it is compared with.

    Raises:
        ValueError: the two are not over the same texts.
    """
    if [tokens for _, tokens in ours] != [tokens for _, tokens in theirs]:
        raise ValueError("they are of other texts")
    pairs = zip(ours, theirs, strict=True)
    difference, se = ratio([(a - b, tokens) for (a, tokens), (b, _) in pairs])
    if se is None:
        return Difference(difference, math.nan, math.nan, math.nan)
    reach = half_width(se, len(ours))
    return Difference(difference, se, difference - reach, difference + reach)
