"""Which figures a model gets of its held-out data, and a run of its tokens."""

from collections.abc import Iterator

import pandas as pd

from rac.report import figures, mechanism, outside, tidy, written
from rac.report.drawing import Drawn
from rac.report.gallery import said
from rac.report.style import Style, spoken

UNDEFINED = "undefined (of fewer than four problems, or one of the two is constant)"


def of_model(
    rows: pd.DataFrame,
    layers: pd.DataFrame,
    variant: str,
    subject: str,
    tokens: pd.DataFrame,
    overlaps: dict[str, pd.DataFrame],
    mixed: pd.DataFrame,
    styles: dict[str, Style],
) -> Iterator[Drawn]:
    """Why it works, and losses on held-out data, of one model.

    Args:
        rows: of the summary, a row a cell.
        layers: of `tidy.layers`, at `variant`.
        variant: which is shown closely.
        subject: the calibration that the maps compare with others.
        tokens: of `mechanism.tokens`, at `variant`.
        overlaps: variant → CSV of `rac.overlaps`.
        mixed: of `outside.mixtures`.
        styles: of `style.styles`.
    """
    model = rows["model"].iloc[0]
    yield from _by_token(model, variant, subject, tokens, styles)
    for part, of in (("decode", "held-out thoughts"), ("prompt", "held-out prompts")):
        yield from _by_layer(model, rows, layers, variant, part, of, styles)
    yield from _by_divergence(model, rows, styles)
    for name, whole in overlaps.items():
        frame = _with_subject(whole, subject)
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
            f"{model}, {mixed['variant'].iloc[0]}: loss on held-out thoughts against loss on held-out text, "
            "as the Hessians of text and of thoughts are mixed; a number is the share of text.",
            said(mixed, "loss_thoughts", "calibration", False, "Loss on thoughts. ")
            + said(mixed, "loss_text", "calibration", False, " Loss on text. "),
        )


def _with_subject(overlaps: pd.DataFrame, subject: str) -> pd.DataFrame:
    """All pairs of calibrations; of more than three only those that the subject is one of."""
    pair = overlaps[["calibration", "baseline"]]
    if len(set(pair.to_numpy().flat)) <= 3:
        return overlaps
    return overlaps[(pair == subject).any(axis="columns")]


def _by_token(
    model: str, variant: str, subject: str, tokens: pd.DataFrame, styles: dict[str, Style]
) -> Iterator[Drawn]:
    """Errors against the place of a token, and ratios of them problem by problem."""
    if not len(tokens):
        return
    frame = mechanism.by_position(tokens)
    names = list(tokens["calibration"].unique())
    means = tokens.groupby(["calibration", tokens["position"] < 0], sort=False)["error"].mean()
    yield Drawn(
        "why",
        f"positions-{model}",
        frame,
        mechanism.positions(frame, styles),
        f"{model}, {variant}: relative error of layer outputs on held-out problems, mean over layers and "
        f"problems{_together(tokens, mechanism.BINS)}, against the place of the token; dashed: where the "
        "prompt ends.",
        " ".join(
            f"{name}: {means.get((name, True), float('nan')):.3g} on prompts, "
            f"{means.get((name, False), float('nan')):.3g} on thoughts."
            for name in names
        ),
    )
    for baseline in [name for name in names if name != subject][:2]:
        ratio = mechanism.ratios(tokens, baseline, subject)
        if len(ratio):
            of_thought = ratio["position"] >= 0
            parts = {"thoughts": ratio[of_thought], "prompts": ratio[~of_thought]}
            found = " and ".join(
                f"{spoken(middle, False, low, high)} on {name} ({subject} is better at "
                f"{spoken((part['ratio'] > 1).mean(), True)} of {len(part):,})"
                for name, part in parts.items()
                if len(part)
                for middle, low, high in [mechanism.median_ratio(part)]
            )
            medians = ratio.groupby("sequence", as_index=False)["ratio"].median()
            shown = mechanism.first_problems(ratio)
            count = shown["sequence"].nunique()
            whose = f"one of the first {count} of {len(medians)}" if count < len(medians) else "a"
            yield Drawn(
                "why",
                f"ratios-{baseline}-{model}",
                ratio,
                mechanism.heat(shown, f"e({baseline}) / e({subject})"),
                f"{model}, {variant}: token by token, the error with {baseline} over the error with "
                f"{subject}; above 1 {subject} is better. A row is {whose} held-out "
                f"problem{'s' if count < len(medians) else ''}"
                f"{_together(shown, mechanism.COLUMNS)}; dashed: where the prompt ends. Medians over all "
                f"tokens: {found}; 95 % intervals: bootstrap over problems. The numbers below are the "
                "median of each problem.",
                f"Medians of {len(medians)} problems: {spoken(medians['ratio'].min(), False)} to "
                f"{spoken(medians['ratio'].max(), False)}.",
                medians.rename(columns={"ratio": "median ratio"}),
            )


def _together(tokens: pd.DataFrame, most: int) -> str:
    """What a figure with so many places puts together, in words; empty if nothing."""
    wide = mechanism.width(tokens, most)
    return f", {wide} neighbouring positions put together" if wide > 1 else ""


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


def _by_divergence(model: str, rows: pd.DataFrame, styles: dict[str, Style]) -> Iterator[Drawn]:
    """How far the cells' next tokens are from the dense model's, on its own thoughts."""
    value = "kl_thoughts"
    frame = tidy.measured(rows, value)
    frame = frame[tidy.sweeps(frame)]  # of the dense model it is 0
    if frame[value].notna().any():
        label = "KL divergence on held-out thoughts"
        yield Drawn(
            "why",
            f"{value}-{model}",
            frame,
            figures.against_sparsity(frame, value, label, styles, log=True),
            f"{model}: Kullback–Leibler divergence of the next token from the dense model’s, on the decode "
            "tokens of held-out thoughts, nats a token, with 95 % intervals.",
            said(frame, value, "calibration", False),
        )


def of_tokens(tokens: list[dict], gains: pd.DataFrame, styles: dict[str, Style]) -> Iterator[Drawn]:
    """Who wrote the tokens, and whether that predicts what a calibration gains.

    Args:
        tokens: of `answers.source_tokens` and `answers.eval_tokens`.
        gains: of `written.gains`, with columns model and eval.
        styles: of `style.styles`.
    """
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
    if len(gains):
        frame = written.thirds(gains)
        correlations = "; ".join(
            f"{model}, {name}, {subject} over {calibration} "
            f"{spoken(found.value, False, found.low, found.high)}"
            for (model, name, subject, calibration), group in gains.groupby(
                written.SERIES, sort=False
            )
            for found in [written.correlation(group)]
            if pd.notna(found.value)
        )
        subjects = " or ".join(frame["subject"].unique())
        yield Drawn(
            "tokens",
            "gains-by-ratio",
            frame,
            written.against_ratio(frame, styles),
            f"What {subjects} gains over other calibrations, at the variant that is shown closely, in thirds "
            "of each eval’s problems: those of which the dense model wrote least for what it read, to "
            "those of which it wrote most. 95 % intervals over problems. Spearman’s correlation of ratio and "
            f"gain over all problems: {correlations or UNDEFINED}.",
            " ".join(
                f"{model}, {name}, {subject} over {calibration}: "
                + ", ".join(spoken(gain, True) for gain in line["difference"])
                + "."
                for (model, name, subject, calibration), line in frame.groupby(
                    written.SERIES, sort=False
                )
            ),
        )
