"""Which figures a run gets, with their captions and a description for those who cannot see them."""

from collections.abc import Iterator

import pandas as pd

from rac.report import figures, lengths, money, tidy
from rac.report.drawing import Drawn
from rac.report.figures import called
from rac.report.style import UNSOLVED, Style, spoken

BARS = "with 95 % intervals over problems; dashed: dense"
PRINTED = "printed in the paper, as secondary sources have it"
COLUMNS = (  # of an eval: topic, column, label, is a share, is logarithmic, what it is
    ("claim", "accuracy", "accuracy", True, False, "accuracy"),
    ("outside", "loss", "nats a token", False, False, "loss in nats a token"),
    *(
        ("rambling", *rest)
        for rest in (
            ("tokens_mean", "mean tokens a sample", False, False, "mean generated tokens a sample"),
            (
                "seconds_generate",
                "seconds to generate",
                False,
                False,
                "time to generate all samples (also while the machine did other work)",
            ),
            (
                "joules_generate",
                "joules to generate",
                False,
                False,
                "energy to generate all samples by the machine’s counters",
            ),
            (
                "unfinished",
                "unfinished samples",
                True,
                False,
                "samples that were cut or left a thought open",
            ),
            ("looping", "looping samples", True, False, "samples that ended in a loop"),
            (
                "tokens_per_solved",
                "tokens a solved problem",
                False,
                True,
                "tokens for a right answer",
            ),
        )
    ),
)
COSTS = (  # column, label, scale, more is better, only narrower models have less of it, what it is
    (
        *("tokens_per_second_batch", "tokens a second", 1, True, True),
        "tokens a second of the larger batch",
    ),
    ("milliseconds_1", "ms a token, one by one", 1, False, True, "milliseconds a token at batch 1"),
    ("peak_memory_bytes", "peak memory, MiB", 2**-20, False, False, "peak memory"),
    ("bytes_on_disk", "bytes on disk, MiB", 2**-20, False, False, "size on disk"),
)
SPEED = (
    " A speed is the dense model’s times the speed-up that was measured in turn with it. Zeros and fewer "
    "bits save no time here (the table below): for the front such a cell is no faster than the dense model."
)


def of_eval(
    rows: pd.DataFrame,
    differences: pd.DataFrame,
    samples: pd.DataFrame,
    budgets: pd.DataFrame,
    styles: dict[str, Style],
) -> Iterator[Drawn]:
    """The claim, the price of rambling and accuracy for money of one (model, eval).

    Args:
        rows: of the summary, with `money.kinds` as column "kind", and the range of the dense model's memory
            as `dense_memory_low` and `dense_memory_high`.
        differences: of `tidy.against`.
        samples: of `lengths.lengths`, at the variant that is shown closely.
        budgets: rows of budgets.csv of the same cells.
        styles: of `style.styles`.
    """
    model, name = rows[["model", "eval"]].iloc[0]
    where, title = f"{model}-{name}", f"{model}, {name}"
    general = not tidy.samples(rows)
    for topic, value, label, share, log, what in COLUMNS:
        if general and topic == "rambling":  # nothing is written
            continue
        topic = "outside" if general else topic
        frame = tidy.measured(rows, value)
        if value == "accuracy":
            printed = rows[[*tidy.CELL, "paper_accuracy"]]
            frame = frame.merge(printed, on=tidy.CELL, how="left")
        if _anything(frame, value):
            yield from _of_column(
                topic, value, label, share, log, f"{title}: {what}", frame, styles, where
            )
    if len(differences):
        yield Drawn(
            "outside" if general else "claim",
            f"differences-{where}",
            differences,
            figures.differences(differences, styles),
            f"{title}: accuracy with {differences['calibration'].iloc[0]} minus accuracy with another "
            "calibration, paired by problem, with 95 % intervals.",
            said(differences, "difference", "baseline", True),
        )
    variants = [name for name in samples["variant"].unique() if name != "dense"]
    if len(samples):
        table = lengths.quantiles(samples)
        yield Drawn(
            "rambling",
            f"lengths-{where}",
            samples,
            lengths.distribution(samples, styles),
            f"{title}, dense and {', '.join(variants) or 'nothing else'}: the share of samples that "
            "ended within so many tokens. A curve that stays below 100 % left the others unfinished.",
            said(
                table.assign(median=table["50 % below"]), "median", "calibration", False, "Median. "
            ),
            table,
        )
    if len(budgets):
        yield Drawn(
            "rambling",
            f"budgets-{where}",
            budgets,
            lengths.budget_lines(budgets, styles),
            f"{title}, dense and {', '.join(variants) or 'nothing else'}: accuracy if samples were cut "
            "at fewer tokens, from the same samples, with 95 % intervals.",
            said(budgets, "accuracy", "calibration", True),
        )
    beside = money.beside_dense(rows)
    for cost, label, scale, more, speed, what in COSTS:
        frame = money.pareto(beside, cost, more, money.NARROWER if speed else money.KINDS)
        if len(frame) > 1 and frame[cost].nunique() > 1:
            best = frame[frame["front"]]
            how = SPEED if speed else _memory(rows) if cost == "peak_memory_bytes" else ""
            yield Drawn(
                "money",
                f"pareto-{cost}-{where}",
                frame,
                money.fronts(frame, cost, label, scale, styles),
                f"{title}: accuracy, with 95 % intervals, against {what}. The line joins the front: cells "
                f"to which no other is at least as good in both and better in one.{how}",
                said(best, "accuracy", "calibration", True, "On the front. "),
            )
    yield from _ablations(rows, where, title, styles)


def _memory(rows: pd.DataFrame) -> str:
    """How far measurements of the dense model's memory lie apart, and what is measured."""
    low, high = (rows[f"dense_memory_{end}"].iloc[0] / 2**20 for end in ("low", "high"))
    apart = (
        f" The dense model’s own was {low:,.1f} to {high:,.1f} MiB, measured anew beside each of the others: "
        "differences no wider than that say nothing."
    )
    return (apart if low < high else "") + (
        " On a CPU it is how far the process grew, which hangs on what it held before; on a GPU, what torch "
        "allocated."
    )


def _of_column(
    topic: str,
    value: str,
    label: str,
    share: bool,
    log: bool,
    what: str,
    frame: pd.DataFrame,
    styles: dict[str, Style],
    where: str,
) -> Iterator[Drawn]:
    """A column against sparsity, and of the cells that are on no line."""

    def bars(shown: pd.DataFrame) -> str:
        said = BARS if shown[f"{value}_low"].notna().any() else "dashed: dense"
        said += "; ×: missing" if shown[value].isna().any() else ""
        unsolved = figures.finite(shown[value]).isna() & shown[value].notna()
        said += f"; × at the axis’ end: {UNSOLVED}" if unsolved.any() else ""
        printed = shown[f"paper_{value}"].notna().any() if f"paper_{value}" in shown else False
        return said + (f"; hollow: {PRINTED}" if printed else "")

    on_line, dense = tidy.sweeps(frame), frame["variant"] == "dense"
    shown = frame[on_line | dense]
    if _anything(frame[on_line], value):
        yield Drawn(
            topic,
            f"{value}-{where}",
            shown,
            figures.against_sparsity(frame, value, label, styles, share, log),
            f"{what} against sparsity, {bars(shown)}.",
            said(shown, value, "calibration", share),
        )
    shown = frame[~on_line]
    if _anything(frame[~on_line & ~dense], value) and (value == "accuracy" or not on_line.any()):
        whose = " of the other patterns and solvers" if on_line.any() else ""
        yield Drawn(
            topic,
            f"{value}-others-{where}",
            shown,
            figures.dots(frame, value, label, styles, share),
            f"{what}{whose}, {bars(shown)}.",
            said(shown, value, "calibration", share),
        )


def _anything(frame: pd.DataFrame, value: str) -> bool:
    """Whether a cell has a number, measured here or printed in the paper."""
    columns = [column for column in (value, f"paper_{value}") if column in frame]
    return bool(frame[columns].notna().any(axis=None))


def _ablations(
    rows: pd.DataFrame, where: str, title: str, styles: dict[str, Style]
) -> Iterator[Drawn]:
    """Calibrations of one variant beside each other, where there are more than the usual three."""
    variant = tidy.shown_variant(rows)
    frame = rows[(rows["variant"] == variant) & (rows["calibration"] != "none")]
    if frame["calibration"].nunique() > 3:
        one = tidy.measured(frame, "accuracy")
        if one["accuracy"].notna().any():
            dense = tidy.measured(rows[rows["variant"] == "dense"], "accuracy")
            yield Drawn(
                "ablations",
                f"calibrations-{where}",
                one,
                figures.calibrations(one, dense, styles),
                f"{title}, {variant}: accuracy by calibration, {BARS}.",
                said(one, "accuracy", "calibration", True),
            )


def said(frame: pd.DataFrame, value: str, by: str, share: bool, before: str = "") -> str:
    """The numbers of a figure as a sentence a series."""
    sentences = []
    for name, group in frame.groupby(by, sort=False):
        numbers = [
            f"{variant} " + ("missing" if pd.isna(number) else spoken(number, share))
            for variant, number in zip(group["variant"], group[value], strict=True)
        ]
        sentences.append(f"{called(name)}: {', '.join(numbers)}.")
    return before + " ".join(sentences)
