"""Which figures a run gets, with their captions and a description for those who cannot see them."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from rac.report import figures, lengths, mechanism, money, outside, tidy
from rac.report.figures import called
from rac.report.style import Picture, Style, spoken

BARS = "with 95 % intervals over problems; dashed: dense"
COLUMNS = (  # of an eval: topic, column, label, is a share, is logarithmic, what it is
    ("claim", "accuracy", "accuracy", True, False, "accuracy"),
    *(
        ("rambling", *rest)
        for rest in (
            ("tokens_mean", "mean tokens a sample", False, False, "mean generated tokens a sample"),
            (
                "seconds_generate",
                "seconds to generate",
                False,
                False,
                "time to generate all samples, whatever else the machine did,",
            ),
            (
                "unfinished",
                "unfinished samples",
                True,
                False,
                "samples cut, or with an open thought,",
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
COSTS = (  # column, label, scale, more is better, what it is
    ("tokens_per_second_batch", "tokens a second", 1, True, "tokens a second of the larger batch"),
    ("tokens_per_second_1", "tokens a second, one by one", 1, True, "tokens a second at batch 1"),
    ("peak_memory_bytes", "peak memory, MiB", 2**-20, False, "peak memory"),
    ("bytes_on_disk", "bytes on disk, MiB", 2**-20, False, "size on disk"),
)


class Drawn(NamedTuple):
    """A figure with the frame that it shows."""

    topic: str  # the section of the page that it stands in
    name: str  # of its files
    frame: pd.DataFrame
    picture: Picture
    caption: str
    description: str  # for those who cannot see it
    table: pd.DataFrame | None = None  # what the page shows of the frame, if not all


def of_eval(
    rows: pd.DataFrame,
    differences: pd.DataFrame,
    samples: pd.DataFrame,
    budgets: pd.DataFrame,
    styles: dict[str, Style],
) -> Iterator[Drawn]:
    """The claim, the price of rambling and accuracy for money of one (model, eval).

    Args:
        rows: of the summary.
        differences: of `tidy.against`.
        samples: of `lengths.lengths`, at the variant that is shown closely.
        budgets: rows of budgets.csv of the same cells.
        styles: of `style.styles`.
    """
    model, name = rows[["model", "eval"]].iloc[0]
    where, title = f"{model}-{name}", f"{model}, {name}"
    for topic, value, label, share, log, what in COLUMNS:
        frame = tidy.measured(rows, value)
        if value == "accuracy":
            printed = rows[[*tidy.CELL, "paper_accuracy"]]
            frame = frame.merge(printed, on=tidy.CELL, how="left")
        if frame[value].notna().any():
            yield from _of_column(
                topic, value, label, share, log, f"{title}: {what}", frame, styles, where
            )
    if len(differences):
        yield Drawn(
            "claim",
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
        frame = lengths.at_budgets(budgets, rows)
        yield Drawn(
            "rambling",
            f"budgets-{where}",
            frame,
            lengths.budget_lines(frame, styles),
            f"{title}, dense and {', '.join(variants) or 'nothing else'}: accuracy if samples were cut "
            "at fewer tokens, from the same samples, with 95 % intervals.",
            said(frame, "accuracy", "calibration", True),
        )
    marked = money.with_dense(rows.assign(kind=money.kinds(rows)))
    for cost, label, scale, more, what in COSTS:
        frame = money.pareto(marked, cost, more)
        if len(frame) > 1 and frame[cost].nunique() > 1:
            best = frame[frame["front"]]
            yield Drawn(
                "money",
                f"pareto-{cost}-{where}",
                frame,
                money.fronts(frame, cost, label, scale, styles),
                f"{title}: accuracy against {what}. The line joins the front: cells that no other beats "
                "in both.",
                said(best, "accuracy", "calibration", True, "On the front. "),
            )
    yield from _ablations(rows, where, title, styles)


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
        return said + ("; ×: missing" if shown[value].isna().any() else "")

    on_line, dense = tidy.sweeps(frame), frame["variant"] == "dense"
    shown = frame[on_line | dense]
    if frame.loc[on_line, value].notna().any():
        yield Drawn(
            topic,
            f"{value}-{where}",
            shown,
            figures.against_sparsity(frame, value, label, styles, share, log),
            f"{what} against sparsity, {bars(shown)}.",
            said(shown, value, "calibration", share),
        )
    shown = frame[~on_line]
    if frame.loc[~on_line & ~dense, value].notna().any() and (
        value == "accuracy" or not on_line.any()
    ):
        whose = " of the other patterns and solvers" if on_line.any() else ""
        yield Drawn(
            topic,
            f"{value}-others-{where}",
            shown,
            figures.dots(frame, value, label, styles, share),
            f"{what}{whose}, {bars(shown)}.",
            said(shown, value, "calibration", share),
        )


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
                figures.calibrations(one, dense, "accuracy", "accuracy", styles, share=True),
                f"{title}, {variant}: accuracy by calibration, {BARS}.",
                said(one, "accuracy", "calibration", True),
            )


def of_model(
    rows: pd.DataFrame,
    layers: pd.DataFrame,
    variant: str,
    tokens: pd.DataFrame,
    overlaps: dict[str, pd.DataFrame],
    mixed: pd.DataFrame,
    styles: dict[str, Style],
) -> Iterator[Drawn]:
    """Why it works, and losses on held-out data, of one model.

    Args:
        rows: of the summary, a row a cell.
        layers: of `tidy.layers`, at `variant`.
        tokens: of `mechanism.tokens`, at `variant`.
        overlaps: variant → CSV of `rac.overlaps`.
        mixed: of `outside.mixtures`.
        styles: of `style.styles`.
    """
    model = rows["model"].iloc[0]
    yield from _by_token(model, variant, tokens, styles)
    for part, of in (("decode", "held-out thoughts"), ("prompt", "held-out prompts")):
        yield from _by_layer(model, rows, layers, variant, part, of, styles)
    for name, frame in overlaps.items():
        for value, label, what in (
            (
                "jaccard",
                "overlap of kept weights",
                "kept weights that two calibrations share (Jaccard)",
            ),
            (
                "rank_correlation",
                "rank correlation of importance",
                "Spearman’s correlation of the weights’ importance |w| ‖x‖",
            ),
        ):
            means = frame.groupby(["calibration", "baseline", "projection"], sort=False)[
                value
            ].mean()
            yield Drawn(
                "why",
                f"{value}-{name}-{model}",
                frame,
                mechanism.overlap(frame, value, label, styles),
                f"{model}, {name}: {what}, for every layer in the order of the model.",
                "Means. "
                + " ".join(
                    f"{key[0]}, {key[1]}: {number:.3g}."
                    for key, number in frame.groupby(["calibration", "baseline"], sort=False)[value]
                    .mean()
                    .items()
                ),
                means.unstack().reset_index(),
            )
    frame = tidy.losses(rows)
    if len(frame):
        yield Drawn(
            "outside",
            f"losses-{model}",
            frame,
            outside.price(frame, styles),
            f"{model}: loss on held-out thoughts against loss on held-out text, with 95 % "
            "intervals. A line runs from the lowest to the highest sparsity; hollow markers are "
            "other patterns and solvers. Down is better at thoughts, left is better at text.",
            said(frame, "loss_thoughts", "calibration", False, "Loss on thoughts. ")
            + said(frame, "loss_text", "calibration", False, " Loss on text. "),
        )
    frame = tidy.measured(rows, "loss_text")
    if tidy.sweeps(frame).any():
        frame = frame[tidy.sweeps(frame) | (frame["variant"] == "dense")]
        label = "loss on held-out text"
        yield Drawn(
            "outside",
            f"loss_text-{model}",
            frame,
            figures.against_sparsity(frame, "loss_text", label, styles, zero=False),
            f"{model}: loss on held-out text against sparsity, nats a token, with 95 % intervals; "
            "dashed: dense.",
            said(frame, "loss_text", "calibration", False),
        )
    if len(mixed):
        yield Drawn(
            "mixtures",
            f"mixtures-{model}",
            mixed,
            outside.front(mixed, styles),
            f"{model}, {mixed['variant'].iloc[0]}: the same, as the Hessians of text and of thoughts are "
            "mixed; a number is the share of text.",
            said(mixed, "loss_thoughts", "calibration", False, "Loss on thoughts. ")
            + said(mixed, "loss_text", "calibration", False, " Loss on text. "),
        )


def _by_token(
    model: str, variant: str, tokens: pd.DataFrame, styles: dict[str, Style]
) -> Iterator[Drawn]:
    """Errors against the place of a token, and ratios of them problem by problem."""
    if not len(tokens):
        return
    frame = mechanism.by_position(tokens)
    names = list(dict.fromkeys(tokens["calibration"]))
    means = tokens.groupby(["calibration", tokens["position"] < 0], sort=False)["error"].mean()
    yield Drawn(
        "why",
        f"positions-{model}",
        frame,
        mechanism.positions(frame, styles),
        f"{model}, {variant}: relative error of layer outputs on held-out problems, mean over layers and "
        "problems, against the place of the token; dashed: where the prompt ends.",
        " ".join(
            f"{name}: {means.get((name, True), float('nan')):.3g} on prompts, "
            f"{means.get((name, False), float('nan')):.3g} on thoughts."
            for name in names
        ),
    )
    subject = tidy.subject(names)
    for baseline in [name for name in names if name != subject][-2:]:
        ratio = mechanism.ratios(tokens, baseline, subject or "")
        if len(ratio):
            above = ratio[ratio["position"] >= 0]["ratio"]
            geometric = ratio.groupby("sequence", as_index=False)["ratio"].median()
            yield Drawn(
                "why",
                f"ratios-{baseline}-{model}",
                ratio,
                mechanism.heat(ratio, f"e({baseline}) / e({subject})"),
                f"{model}, {variant}: token by token, the error with {baseline} over the error with "
                f"{subject}; above 1 {subject} is better. A row is a held-out problem; dashed: where the "
                "prompt ends.",
                f"On thoughts {subject} is better at {(above > 1).mean():.1%} of {len(above):,} tokens; the "
                f"median ratio is {above.median():.3g}.",
                geometric.rename(columns={"ratio": "median ratio"}),
            )


def _by_layer(
    model: str,
    rows: pd.DataFrame,
    layers: pd.DataFrame,
    variant: str,
    part: str,
    of: str,
    styles: dict[str, Style],
) -> Iterator[Drawn]:
    """Errors of layers: their mean by sparsity, and each of them at one variant."""
    label = f"relative error, {part} tokens"
    value = f"layer_error_heldout_{part}"
    frame = tidy.measured(rows[rows["variant"] != "dense"], value)
    if frame[value].notna().any():
        swept = tidy.sweeps(frame)
        if frame.loc[swept, value].notna().any():
            frame = frame[swept]
            picture = figures.against_sparsity(frame, value, label, styles, log=True)
        else:
            picture = figures.dots(frame, value, label, styles)
        yield Drawn(
            "why",
            f"{value}-{model}",
            frame,
            picture,
            f"{model}: relative error of layer outputs on the {part} tokens of {of}, mean over layers.",
            said(frame, value, "calibration", False),
        )
    if len(layers):
        means = layers.groupby("calibration", sort=False, as_index=False).mean(numeric_only=True)
        yield Drawn(
            "why",
            f"layers-{part}-{model}",
            layers,
            mechanism.per_layer(layers, f"error_{part}", label, styles),
            f"{model}, {variant}: the same for every layer, in the order of the model.",
            f"Relative error of {layers['layer'].nunique()} layers. "
            + said(means.assign(variant="mean"), f"error_{part}", "calibration", False),
            layers.pivot_table(
                f"error_{part}", ["layer", "name"], "calibration", sort=False
            ).reset_index(),
        )


def of_tokens(tokens: list[dict]) -> Iterator[Drawn]:
    """Who wrote the tokens, of `answers.source_tokens` and `answers.eval_tokens`."""
    rows = [
        {key: one[key] for key in ("name", "model", "kind")}
        | {part: one[part] / (one["prompt"] + one["decode"]) for part in ("prompt", "decode")}
        for one in tokens
        if one["decode"]
    ]
    if rows:
        frame = pd.DataFrame(rows)
        several = frame["model"].nunique() > 1
        named = frame["name"] + (", " + frame["model"] if several else "")
        yield Drawn(
            "tokens",
            "token-shares",
            frame,
            mechanism.shares(frame.assign(name=named)),
            "Tokens that the dense model read (prompts) and wrote (thoughts and answers), in sources of "
            "traces and in benchmarks.",
            " ".join(
                f"{name}: {share:.1%} written."
                for name, share in zip(named, frame["decode"], strict=True)
            ),
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
