"""Stage `report`: the run as one page that needs no network, and its figures as files."""

import base64
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from rac.artifacts import atomic_folder, read_json, write_text
from rac.report import answers, figures, style, tidy
from rac.report.style import Style


class Drawn(NamedTuple):
    """A figure with the frame that it shows."""

    topic: str  # the section of the page that it stands in
    name: str  # of its files
    frame: pd.DataFrame
    figure: Figure
    caption: str
    description: str  # for those who cannot see it


def report(
    summary: Path,
    comparisons: Path,
    diagnostics: list[dict],
    generations: list[dict],
    sources: list[dict],
    provenance: dict,
    output: Path,
) -> None:
    """Write the page, and `figures/` beside it: each figure as SVG and PDF with its data as CSV.

    A file that does not exist is listed on the page as missing; what it would show is left out.

    Args:
        summary: summary.csv.
        comparisons: comparisons.csv.
        diagnostics: dicts of "model", "calibration", "variant" and "path" of diagnostics.json.
        generations: dicts of "model", "calibration", "variant", "eval" and the paths "generations"
            and "scores"; with "requests" (requests.jsonl.zst) and "problems" (the eval's
            data.jsonl) the page shows prompt tokens and problems too.
        sources: dicts of "model", "source" and "index", the path of its Hessians' index.json.
        provenance: what made the page, shown as it is: nested dicts of values.
        output: report.html.

    Raises:
        RacError: a file is damaged.
    """
    rows, compared = tidy.read(summary), tidy.read(comparisons)
    styles = style.styles(rows["calibration"])
    missing: list[str] = []
    errors = [
        cell | {"layers": read_json(cell["path"])["layers"]}
        for cell in diagnostics
        if answers.there(cell["path"], missing)
    ]
    evals = [
        _eval(group, compared, generations, missing)
        for _, group in rows[rows["eval"] != ""].groupby(["model", "eval"], sort=False)
    ]
    drawn = [one for this in evals for one in eval_figures(this, styles)]
    lowest = []
    for model, group in rows.groupby("model", sort=False):
        once = group.drop_duplicates(["calibration", "variant"])
        variant = tidy.shown_variant(once)
        frame = tidy.layers([cell for cell in errors if cell["model"] == model], variant or "")
        drawn += model_figures(once, frame, variant or "", styles)
        lowest += [{"model": model, "variant": variant} | one for one in tidy.lowest(frame)]
    svgs = {one.name: style.svg(one.figure) for one in drawn}
    pictures: dict[str, list[dict]] = {}
    for one in drawn:
        text = style.inline(svgs[one.name], one.name, one.description)
        picture = {"svg": Markup(text), "caption": one.caption}
        pictures.setdefault(one.topic, []).append(picture)
    page = (
        environment()
        .get_template("page.html")
        .render(
            run=rows["run"].iloc[0] if len(rows) else "",
            rows=rows.to_dict("records"),
            evals=evals,
            headline=tidy.headline([claim for this in evals for claim in this["claims"]]),
            pictures=pictures,
            lowest=lowest,
            style=styles,
            tokens=answers.source_tokens(sources, missing)
            + answers.eval_tokens(generations, missing),
            runtimes=rows[rows["speedup_1"].notna() | rows["speedup_batch"].notna()].to_dict(
                "records"
            ),
            missing=missing,
            identity=rows[["config_sha256", "code_version"]].drop_duplicates().to_dict("records"),
            provenance=list(_flat(provenance)),
            downloads={path.name: _data(path) for path in (summary, comparisons)},
        )
    )
    with atomic_folder(output.parent / "figures") as folder:
        for one in drawn:
            style.save(one.figure, svgs[one.name], one.frame, folder, one.name)
    write_text(output, page)


def _eval(
    rows: pd.DataFrame, compared: pd.DataFrame, generations: list[dict], missing: list[str]
) -> dict[str, Any]:
    """What the page says of one (model, eval)."""
    model, name = rows[["model", "eval"]].iloc[0]
    variant = tidy.shown_variant(rows)
    first = tidy.subject(list(rows["calibration"]))
    of_eval = compared[(compared["model"] == model) & (compared["eval"] == name)]
    differences = tidy.against(of_eval, first or "")
    cells = [
        cell
        for cell in generations
        if (cell["model"], cell["eval"]) == (model, name) and cell["variant"] in ("dense", variant)
    ]
    return {
        "model": model,
        "eval": name,
        "rows": rows,
        "variant": variant,
        "shown": rows[rows["variant"].isin(["dense", variant])].to_dict("records"),
        "differences": differences,
        "claims": tidy.claims(differences),
        "problems": answers.side_by_side(cells, missing),
    }


def eval_figures(this: dict[str, Any], styles: dict[str, Style]) -> Iterator[Drawn]:
    """Accuracy, its paired differences, and the length of thoughts of one (model, eval)."""
    rows, where = this["rows"], f"{this['model']}-{this['eval']}"
    title = f"{this['model']}, {this['eval']}"
    if len(this["differences"]):
        frame = this["differences"]
        yield Drawn(
            "claim",
            f"differences-{where}",
            frame,
            figures.differences(frame, styles),
            f"{title}: accuracy with {frame['calibration'].iloc[0]} minus accuracy with another "
            "calibration, paired by problem, with 95 % intervals.",
            spoken(frame, "difference", "baseline", True),
        )
    for topic, value, label, share, what in (
        ("accuracy", "accuracy", "accuracy", True, "accuracy"),
        ("length", "tokens_mean", "mean tokens a sample", False, "mean generated tokens a sample"),
        ("length", "unfinished", "unfinished samples", True, "samples cut at the token limit"),
    ):
        frame = tidy.measured(rows, value)
        on_line = tidy.sweeps(frame)
        bars = "with 95 % intervals over problems; dashed: dense"
        if on_line.any():
            yield Drawn(
                topic,
                f"{value}-{where}",
                frame[on_line | (frame["variant"] == "dense")],
                figures.against_sparsity(frame, value, label, styles, share),
                f"{title}: {what} against sparsity, {bars}.",
                spoken(frame[on_line | (frame["variant"] == "dense")], value, "calibration", share),
            )
        others = ~on_line & (frame["variant"] != "dense")
        if others.any() and (topic == "accuracy" or not on_line.any()):
            yield Drawn(
                topic,
                f"{value}-others-{where}",
                frame[~on_line],
                figures.dots(frame, value, label, styles, share),
                f"{title}: {what} of the other patterns and solvers, {bars}.",
                spoken(frame[~on_line], value, "calibration", share),
            )


def model_figures(
    rows: pd.DataFrame, layers: pd.DataFrame, variant: str, styles: dict[str, Style]
) -> Iterator[Drawn]:
    """Layer errors and losses on held-out data of one model."""
    model = rows["model"].iloc[0]
    for part, of in (("decode", "held-out thoughts"), ("prompt", "held-out prompts")):
        label = f"relative error, {part} tokens"
        value = f"layer_error_heldout_{part}"
        frame = tidy.measured(rows[rows["variant"] != "dense"], value)
        draw = figures.against_sparsity if tidy.sweeps(frame).any() else figures.dots
        if len(frame):
            log = {"log": True} if draw is figures.against_sparsity else {}
            yield Drawn(
                "layers",
                f"{value}-{model}",
                frame,
                draw(frame, value, label, styles, **log),
                f"{model}: relative error of layer outputs on the {part} tokens of {of}, mean over "
                "layers.",
                spoken(frame, value, "calibration", False),
            )
        if len(layers):
            yield Drawn(
                "layers",
                f"layers-{part}-{model}",
                layers,
                figures.per_layer(layers, f"error_{part}", label, styles),
                f"{model}, {variant}: the same for every layer, in the order of the model.",
                f"Relative error of {layers['layer'].nunique()} layers. "
                + spoken(
                    layers.groupby("calibration", sort=False, as_index=False)
                    .mean(numeric_only=True)
                    .assign(variant="mean"),
                    f"error_{part}",
                    "calibration",
                    False,
                ),
            )
    frame = tidy.losses(rows)
    if len(frame):
        yield Drawn(
            "price",
            f"losses-{model}",
            frame,
            figures.price(frame, styles),
            f"{model}: loss on held-out thoughts against loss on held-out text, with 95 % "
            "intervals. A line runs from the lowest to the highest sparsity; hollow markers are "
            "other patterns and solvers. Down is better at thoughts, left is better at text.",
            "Loss on thoughts: "
            + spoken(frame, "loss_thoughts", "calibration", False)
            + " Loss on text: "
            + spoken(frame, "loss_text", "calibration", False),
        )

    frame = tidy.measured(rows, "loss_text")
    if tidy.sweeps(frame).any():
        yield Drawn(
            "price",
            f"loss_text-{model}",
            frame,
            figures.against_sparsity(
                frame, "loss_text", "loss on held-out text", styles, zero=False
            ),
            f"{model}: loss on held-out text against sparsity, nats a token, with 95 % intervals; "
            "dashed: dense.",
            spoken(frame, "loss_text", "calibration", False),
        )


def spoken(frame: pd.DataFrame, value: str, by: str, share: bool) -> str:
    """The numbers of a figure as a sentence a series."""
    sentences = []
    for name, group in frame.groupby(by, sort=False):
        numbers = [
            f"{variant} {number:.1%}" if share else f"{variant} {number:.3g}"
            for variant, number in zip(group["variant"], group[value], strict=True)
        ]
        sentences.append(f"{'uncalibrated' if name == 'none' else name}: {', '.join(numbers)}.")
    return " ".join(sentences)


def environment() -> jinja2.Environment:
    """Templates of this package, everything escaped, with the page's number formats."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("rac.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.filters |= {
        "percent": partial(_format, "{:.1%}"),
        "points": partial(_format, "{:+.1f}", scale=100),
        "whole": partial(_format, "{:,.0f}"),
        "tenths": partial(_format, "{:,.1f}"),
        "thousandths": partial(_format, "{:,.3f}"),
        "short": partial(_format, "{:.3g}"),
        "times": partial(_format, "{:.2f} ×"),
        "mebibytes": partial(_format, "{:,.1f}", scale=2**-20),
    }
    return env


def _format(form: str, value: Any, scale: float = 1) -> str:
    """A number as text; – where there is none."""
    if value is None or value == "" or pd.isna(value):
        return "–"
    return form.format(float(value) * scale).replace("-", "−").replace("%", " %")


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _data(path: Path) -> str:
    return "data:text/csv;base64," + base64.b64encode(Path(path).read_bytes()).decode()
