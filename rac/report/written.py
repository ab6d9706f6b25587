"""Whether the share that a model writes itself predicts what a calibration gains, problem by problem."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from rac.artifacts import read_jsonl
from rac.evaluate.statistics import (
    by_problem,
    differences,
    fewest_samples,
    paired_difference,
    problem_means,
)
from rac.report.answers import there
from rac.report.style import (
    RC,
    SIZE,
    Picture,
    Style,
    bars,
    legend,
    log_axis,
    points_tick,
    series,
    spoken,
)

PARTS = 3  # that an eval's problems are cut into, by their ratio
COLUMNS = ["subject", "calibration", "problem", "ratio", "gain", "samples"]
SERIES = ["model", "eval", "subject", "calibration"]


def gains(cells: list[dict], subject: str, missing: list[str]) -> pd.DataFrame:
    """What `subject` gains in each problem over the other calibrations.

    Args:
        cells: dicts of "calibration", "variant", "scores" and perhaps "requests": the dense model and the
            calibrations of one variant, of one (model, eval).
        subject: the calibration that is compared with the others.
        missing: paths that were not found are added.

    Returns:
        Columns subject, calibration (the other one), problem, ratio (mean tokens that the dense model
        wrote, over tokens of the prompt), gain (accuracy with the subject less that with the other) and
        samples (of each problem); no rows if a file is missing.
    """
    scores: dict[str, list[dict]] = {}
    read: dict[tuple[int, str], int] = {}
    for cell in cells:
        if not there(cell["scores"], missing):
            continue
        dense = cell["variant"] == "dense"
        scores["dense" if dense else cell["calibration"]] = read_jsonl(cell["scores"])
        if dense and there(cell.get("requests"), missing):
            requests = read_jsonl(cell["requests"])
            read = {(row["doc_id"], row["id"]): len(row["token_ids"]) for row in requests}
    found = [pd.DataFrame(columns=COLUMNS)]
    if read and subject in scores and all("tokens" in row for row in scores.get("dense", [])):
        written = problem_means(*by_problem(scores.get("dense", []), "tokens"))
        for other in scores:
            if other in ("dense", subject, "none"):
                continue
            ours, theirs = (by_problem(scores[name], "correct") for name in (subject, other))
            each = dict(zip(dict.fromkeys(ours[1]), differences(*ours, *theirs), strict=True))
            samples = fewest_samples(ours[1], theirs[1])
            rows = [
                (subject, other, i[0], written[i] / read[i], each[i], samples)
                for i in each
                if i in written
            ]
            found.append(pd.DataFrame(rows, columns=COLUMNS))
    return pd.concat(found[1:] or found, ignore_index=True)


class Correlation(NamedTuple):
    """Spearman's rank correlation and its 95 % interval."""

    value: float
    low: float
    high: float


def correlation(frame: pd.DataFrame) -> Correlation:
    """How the ratio and the gain of problems hang together; NaN where either is constant.

    The interval is Fisher's with the standard error of Bonett and Wright (2000).

    Args:
        frame: of `gains`, of one calibration.
    """
    ratio, gain = frame["ratio"].rank(), frame["gain"].rank()
    if len(frame) < 4 or ratio.nunique() < 2 or gain.nunique() < 2:
        return Correlation(math.nan, math.nan, math.nan)
    value = float(ratio.corr(gain))
    reach = 1.96 * math.sqrt((1 + value**2 / 2) / (len(frame) - 3))
    middle = math.atanh(max(min(value, 1 - 1e-9), -1 + 1e-9))
    return Correlation(value, math.tanh(middle - reach), math.tanh(middle + reach))


def thirds(frame: pd.DataFrame) -> pd.DataFrame:
    """The gain in thirds of the problems, from those with the lowest ratio to those with the highest.

    Args:
        frame: of `gains`, with columns model and eval.

    Returns:
        Columns model, eval, subject, calibration, problems, ratio (the median), difference, low and
        high (95 %).
    """
    rows = []
    for names, group in frame.groupby(SERIES, sort=False):
        ordered = group.sort_values("ratio", kind="stable")
        for places in np.array_split(np.arange(len(ordered)), PARTS):
            third = ordered.iloc[places]
            if len(third):
                gain = paired_difference(list(third["gain"]), int(third["samples"].min()))
                rows.append(
                    dict(zip(SERIES, names, strict=True))
                    | {"problems": len(third), "ratio": third["ratio"].median()}
                    | {key: getattr(gain, key) for key in ("difference", "low", "high")}
                )
    return pd.DataFrame(rows)


def against_ratio(frame: pd.DataFrame, style: dict[str, Style]) -> Picture:
    """Gains against the ratio of written to read tokens; a line joins the thirds of an eval's problems.

    Args:
        frame: of `thirds`.
        style: of `styles`.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        axes.axhline(0, color="#8a8f98", linewidth=0.8)
        subjects = frame["subject"].unique()
        for (model, name, subject, calibration), line in frame.groupby(SERIES, sort=False):
            said = [
                f"{model}, {name}, {row['problems']} problems, {row['ratio']:.2g} tokens written for one "
                f"read: {subject} − {calibration} "
                + spoken(row["difference"], True, row["low"], row["high"])
                for row in line.to_dict("records")
            ]
            series(
                *(axes, tips, said, line["ratio"], line["difference"]),
                yerr=bars(line, "difference", ("low", "high")),
                label=f"over {calibration}",
                color=style[calibration].colour,
                marker=style[calibration].marker,
            )
        if frame["ratio"].min() > 0 and frame["ratio"].max() > 4 * frame["ratio"].min():
            log_axis(axes, "x")
        axes.yaxis.set_major_formatter(points_tick)
        axes.set_xlabel("tokens that the dense model wrote for each that it read")
        axes.set_ylabel(f"accuracy with {' or '.join(subjects)} − with another, points")
        legend(axes)
        return Picture(figure, tips)
