"""Stage `report`: the run as one page that needs no network, and its figures as files."""

import base64
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from rac.artifacts import atomic_folder, read_json, write_text
from rac.report import answers, gallery, style, tidy


def report(
    summary: Path,
    comparisons: Path,
    diagnostics: list[dict],
    generations: list[dict],
    sources: list[dict],
    overlaps: list[dict],
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
        overlaps: dicts of "model", "variant" and "path" of a CSV of `rac.overlaps`.
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
    drawn = [
        one for this in evals for one in gallery.of_eval(this["rows"], this["differences"], styles)
    ]
    first = tidy.subject(list(rows["calibration"]))
    found = [this["differences"] for this in evals]
    of_first = [frame[frame["calibration"] == first] for frame in found]
    lowest = []
    for model, group in rows.groupby("model", sort=False):
        once = group.drop_duplicates(["calibration", "variant"])
        variant = tidy.shown_variant(once)
        frame = tidy.layers([cell for cell in errors if cell["model"] == model], variant or "")
        drawn += gallery.of_model(once, frame, variant or "", styles)
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
            headline=tidy.headline(pd.concat([compared[:0], *of_first])),
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
        "compared": differences.to_dict("records"),
        "problems": answers.side_by_side(cells, missing),
    }


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
