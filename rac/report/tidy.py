"""Tidy data frames of a run: what figures draw, their CSV files hold, and the page says."""

import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from rac.errors import RacError
from rac.evaluate.statistics import half_width, share_interval

TEXT = (
    "run",
    "model",
    "calibration",
    "variant",
    "solver",
    "pattern",
    "quantization",
    "eval",
    "baseline",
    "dense_sha256",
    "config_sha256",
    "code_version",
)
SHARES = ("finished", "looping")
APART = ("loss_", "kl_", "layer_error")  # columns of a cell, whatever becomes of its eval
HELDOUT = ("thoughts", "text")
PAIR = ["model", "variant", "eval", "calibration", "baseline"]
CELL = ["calibration", "variant", "solver", "pattern", "sparsity_asked"]


def read(file: Path) -> pd.DataFrame:
    """summary.csv or comparisons.csv; names stay text even where they look like numbers.

    Raises:
        RacError: missing, or not a table.
    """
    names = dict.fromkeys(TEXT, str)
    try:
        frame = pd.read_csv(file, keep_default_na=False, na_values=[""], dtype=names)
    except FileNotFoundError:
        raise RacError(f"{file} is missing") from None
    except ValueError as error:
        raise RacError(f"{file} is damaged: {error}; delete it to have it made again") from None
    text = [name for name in TEXT if name in frame]
    return frame.assign(**{name: frame[name].fillna("") for name in text})


def measured(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """The cells where `value` was measured, with its 95 % interval where it has one, and missing cells.

    Args:
        rows: rows of the summary of one (model, eval).
        value: a column of it, or "unfinished" (1 − finished).

    Returns:
        Columns of the cell, `value`, `{value}_low`, `{value}_high` (NaN without a standard error); all
        three NaN where the cell is missing and `value` is one of an eval. A solved problem costs
        infinitely many tokens where none was.
    """
    column = "finished" if value == "unfinished" else value
    numbers, ends = rows[column].astype(float), intervals(rows, column)
    if value == "unfinished":
        numbers, ends = (
            1 - numbers,
            pd.DataFrame({"low": 1 - ends["high"], "high": 1 - ends["low"]}),
        )
    if value == "tokens_per_solved":
        unsolved = (rows["accuracy"] == 0) & rows["tokens_mean"].notna()
        numbers = numbers.mask(unsolved, math.inf)
    frame = rows[CELL].assign(
        **{value: numbers, f"{value}_low": ends["low"], f"{value}_high": ends["high"]}
    )
    missing = absent(rows) & (not value.startswith(APART))
    return frame[frame[value].notna() | missing].reset_index(drop=True)


def intervals(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The 95 % interval of a column in each row: `low` and `high`, NaN where it has none.

    It is summary.csv's own where that has one; else Wilson's of a share, and t over problems of tokens
    (docs/summary.md).
    """
    if f"{column}_low" in rows:
        return pd.DataFrame({end: rows[f"{column}_{end}"].astype(float) for end in ("low", "high")})
    if column not in (*SHARES, "tokens_mean"):
        return pd.DataFrame(math.nan, rows.index, ["low", "high"])
    numbers, errors = rows[column].astype(float), rows[f"{column}_se"].astype(float)
    problems = rows["problems"].fillna(0).astype(int)
    if column in SHARES:
        ends = [
            share_interval(share, se, count) if pd.notna(share) else (math.nan, math.nan)
            for share, se, count in zip(numbers, errors, problems, strict=True)
        ]
        return pd.DataFrame(ends, rows.index, ["low", "high"], dtype=float)
    reach = [half_width(se, count) for se, count in zip(errors, problems, strict=True)]
    half = pd.Series(reach, rows.index, dtype=float)
    return pd.DataFrame({"low": numbers - half, "high": numbers + half})


def absent(rows: pd.DataFrame) -> pd.Series:
    """Whether a row's cell was to be evaluated and is not: it failed, or was not computed yet."""
    if "eval" not in rows or "accuracy" not in rows:
        return pd.Series(False, rows.index)
    none = rows["accuracy"].isna()
    return (rows["eval"] != "") & (none & rows["loss"].isna() if "loss" in rows else none)


def samples(rows: pd.DataFrame) -> bool:
    """Whether the rows are of an eval that asks for written answers: for others no tokens are counted."""
    return bool(rows["tokens_mean"].notna().any()) or bool(absent(rows).all())


def losses(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells whose losses were measured, in nats a token, with 95 % intervals, and perplexities (exp)."""
    both = measured(rows, "loss_text").merge(measured(rows, "loss_thoughts"), on=CELL)
    both = both.dropna(subset=["loss_text", "loss_thoughts"]).reset_index(drop=True)
    return both.assign(**{f"perplexity_{of}": np.exp(both[f"loss_{of}"]) for of in HELDOUT})


def lines(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells that are points of a line: one definition and calibration at several sparsities.

    Returns:
        Those rows of the frame, with `family`: the variant's name without its sparsity.
    """
    points = frame[frame["pattern"].str.startswith("unstructured")].dropna(subset="sparsity_asked")
    named = zip(points["variant"], points["sparsity_asked"], strict=True)
    family = [variant.removesuffix(f"-{sparsity:g}") for variant, sparsity in named]
    points = points.assign(family=pd.Series(family, points.index, dtype=str))
    several = points.groupby(["family", "calibration"])["sparsity_asked"].transform("nunique") > 1
    return points[several]


def sweeps(frame: pd.DataFrame) -> pd.Series:
    """Whether each cell is a point of one of the `lines`."""
    return pd.Series(frame.index.isin(lines(frame).index), frame.index)


def shown_variant(rows: pd.DataFrame) -> str | None:
    """The variant that a page shows closely: with most calibrations, then nearest to 50 % zeros."""
    calibrated = rows[rows["calibration"] != "none"]
    if calibrated.empty:
        return None
    variants = calibrated.groupby("variant", sort=False).agg(
        calibrations=("calibration", "nunique"), sparsity=("sparsity_asked", "first")
    )
    distance = (variants["sparsity"] - 0.5).abs()
    order = variants.assign(distance=distance).sort_values(
        ["calibrations", "distance"], ascending=[False, True], kind="stable"
    )
    return str(order.index[0])


def layers(diagnostics: list[dict]) -> pd.DataFrame:
    """Held-out errors of every layer at one variant.

    Args:
        diagnostics: dicts of "calibration" and "layers", of one model and variant.

    Returns:
        Columns calibration, layer (its index in the model), name, block, projection, error_decode
        and error_prompt.
    """
    keys = ("name", "block", "projection", "error_decode", "error_prompt")
    return pd.DataFrame(
        [
            {"calibration": cell["calibration"], "layer": i} | {key: layer[key] for key in keys}
            for cell in diagnostics
            for i, layer in enumerate(cell["layers"])
        ],
        columns=["calibration", "layer", *keys],
    )


def subject(calibrations: Iterable[str], kin: Collection[str] = ()) -> str | None:
    """The calibration that is compared with the others.

    `rac`; else the first whose name ends in `-rac`, of `kin` if one is; else the last one listed.

    Args:
        calibrations: of one model and eval, in the order of the run.
        kin: of `akin`.
    """
    named = [name for name in dict.fromkeys(calibrations) if name != "none"]
    if "rac" in named:
        return "rac"
    own = [name for name in named if name.endswith("-rac")]
    if own:
        return next((name for name in own if name in kin), own[0])
    return named[-1] if named else None


def akin(definitions: dict) -> set[str]:
    """The calibrations that read a source which the held-out thoughts are named after.

    `math-traces-heldout` is of the kin of `math-traces`, and so are calibrations that sum it.

    Args:
        definitions: a configuration with its active run, as JSON.
    """
    runs, run = definitions.get("runs", {}), definitions.get("run")
    thoughts = ((runs.get(run) or {}).get("heldout") or {}).get("thoughts", "")
    return {
        name
        for name, calibration in definitions.get("calibrations", {}).items()
        for key in calibration.get("sum") or calibration.get("share") or {}
        for source in (key, key.rpartition(".")[0])
        if source and f"{thoughts}-".startswith(f"{source}-")
    }


def against(comparisons: pd.DataFrame, calibration: str, value: str = "") -> pd.DataFrame:
    """The differences of `calibration` to others, turned so that it comes first.

    Args:
        comparisons: comparisons.csv.
        calibration: as it is called there.
        value: what its columns begin with, such as loss_text; empty for accuracy.
    """
    comparisons = comparisons[comparisons["baseline"] != "dense"]
    if value:
        ends = {"difference": "", "low": "_low", "high": "_high"}
        found = {end: comparisons[f"{value}_difference{of}"] for end, of in ends.items()}
        comparisons = comparisons[PAIR].assign(**found)
    else:
        comparisons = comparisons.loc[:, ~comparisons.columns.str.contains("_difference")]
    comparisons = comparisons.dropna(subset="difference")
    turned = comparisons[comparisons["baseline"] == calibration].rename(
        columns={"calibration": "baseline", "baseline": "calibration", "low": "high", "high": "low"}
    )
    turned = turned.assign(**{key: -turned[key] for key in ("difference", "low", "high")})
    kept = comparisons[comparisons["calibration"] == calibration]
    return pd.concat([kept, turned[kept.columns]]).sort_index(kind="stable").reset_index(drop=True)


def headline(comparisons: pd.DataFrame, tasks: str) -> str:
    """What the 95 % intervals of models and evals say, a sentence a subject; empty if there are none.

    Args:
        comparisons: of `against`, of each model and eval with its own subject.
        tasks: what the evals are, in words.
    """
    if comparisons.empty:
        return ""
    subjects = comparisons.groupby("calibration", sort=False)
    return " ".join(_sentence(str(name), group, tasks) for name, group in subjects)


def _sentence(calibration: str, comparisons: pd.DataFrame, tasks: str) -> str:
    counts = comparisons.groupby("baseline", sort=False).agg(
        total=("low", "size"),
        higher=("low", lambda low: int((low > 0).sum())),
        lower=("high", lambda high: int((high < 0).sum())),
    )
    parts = []
    for said in ("higher", "lower"):
        some = counts[counts[said] > 0]
        if len(some):
            named = [
                f"with {row.Index} in {getattr(row, said)} of {row.total}"
                for row in some.itertuples()
            ]
            listed = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
            parts.append(f"{said} than {listed}")
    alike = counts[(counts["higher"] == 0) & (counts["lower"] == 0)].index
    if len(alike):
        parts.append(f"not shown to differ from that with {' or '.join(alike)}")
    sentence = f"With {calibration} calibration, accuracy on {tasks} is {'; '.join(parts)}."
    return re.sub(r"( in \d+ of \d+)", r"\1 comparisons", sentence, count=1)


def lowest(layers: pd.DataFrame) -> list[dict]:
    """In how many layers each calibration has the lowest error on decode tokens (of two or more).

    Args:
        layers: of `layers`.
    """
    if layers["calibration"].nunique() < 2:
        return []
    best = layers.loc[layers.groupby("layer")["error_decode"].idxmin(), "calibration"]
    counts = best.value_counts()
    return [
        {
            "calibration": name,
            "layers": int(counts.get(name, 0)),
            "of": len(best),
            "mean_decode": float(group["error_decode"].mean()),
            "mean_prompt": float(group["error_prompt"].mean()),
        }
        for name, group in layers.groupby("calibration", sort=False)
    ]
