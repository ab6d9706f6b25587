"""Stage `report`: the run as one page that needs no network, and its figures as files."""

import base64
import gzip
import hashlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

from rac.artifacts import atomic_folder, read_json, write_text
from rac.provenance import checked_sha256, hashes, write_record
from rac.report import (
    answers,
    drawing,
    gallery,
    gallery_model,
    lengths,
    mechanism,
    money,
    outside,
    style,
    tidy,
    times,
    written,
)

# What cells call the files that the page is made from.
READ = ("path", "tokens", "generations", "scores", "requests", "problems", "index")
# The two kinds of tasks, as the headline calls them.
WRITTEN, CHOSEN = "tasks that the model answers in writing", "tasks for which it writes nothing"
ROWS = 40  # of a figure's table that the page shows
UNPACKED = 200_000  # bytes of a table that the page holds as it is
SCRIPT = Path(__file__).with_name("page.js")
LOOK = Path(__file__).with_name("page.css")


def report(
    summary: Path,
    comparisons: Path,
    budgets: Path,
    diagnostics: list[dict],
    losses: list[dict],
    generations: list[dict],
    sources: list[dict],
    overlaps: list[dict],
    config: dict,
    provenance: dict,
    output: Path,
    stages: list[dict] | None = None,
    lacking: list[dict] | None = None,
) -> None:
    """Write the page, and `figures/` beside it: each figure as SVG and PDF with its data as CSV.

    report.json is their record: what made them, and their hashes.

    A file that does not exist is listed on the page as missing; what it would show is left out.

    Args:
        summary: summary.csv.
        comparisons: comparisons.csv.
        budgets: budgets.csv.
        diagnostics: dicts of "model", "calibration", "variant" and "path" of diagnostics.json.
        losses: dicts of "model", "calibration", "variant" and "tokens", the path of the errors by token.
        generations: dicts of "model", "calibration", "variant", "eval" and the paths "generations"
            and "scores"; with "requests" (requests.jsonl.zst) and "problems" (the eval's
            data.jsonl) the page shows prompt tokens and problems too.
        sources: dicts of "model", "source" and "index", the path of its Hessians' index.json.
        overlaps: dicts of "model", "variant" and "path" of a CSV of `rac.overlaps`.
        config: the definitions that the run hangs on, as JSON.
        provenance: what made the page, shown as it is: nested dicts of values; "page" for its record.
        output: report.html.
        stages: of `times.stage_times`.
        lacking: of `preview.lacking`: cells that failed or were not computed yet.

    Raises:
        RacError: a file is damaged, or was changed after it was written.
    """
    cells = (*diagnostics, *losses, *generations, *sources, *overlaps)
    named = (Path(row[key]) for row in cells for key in READ if row.get(key))
    read = [summary, comparisons, budgets, *filter(Path.is_file, dict.fromkeys(named))]
    files = {str(file): checked_sha256(file) for file in read}  # before any of them is read
    rows, compared, cut = tidy.read(summary), tidy.read(comparisons), tidy.read(budgets)
    memory = rows.groupby("model")["peak_memory_bytes_dense"]  # measured beside each cell
    rows = rows.assign(
        kind=money.kinds(rows),
        missing=tidy.absent(rows),
        dense_memory_low=memory.transform("min"),
        dense_memory_high=memory.transform("max"),
    )
    styles = style.styles(rows["calibration"])
    missing: list[str] = []
    evals = [
        _eval(group, compared, cut, generations, missing)
        for _, group in rows[rows["eval"] != ""].groupby(["model", "eval"], sort=False)
    ]
    answers.shorten([problem for this in evals for problem in this["problems"]])
    jobs: list[Callable] = [
        partial(
            gallery.of_eval,
            *(this["rows"], this["differences"], this["samples"], this["budgets"], styles),
        )
        for this in evals
    ]
    headline, elsewhere = (
        tidy.headline(
            pd.concat(
                [compared[:0], *(of["differences"] for of in evals if of["general"] == general)]
            ),
            tasks,
        )
        for general, tasks in ((False, WRITTEN), (True, CHOSEN))
    )
    lowest, mixtures = [], []
    for _, group in rows.groupby("model", sort=False):
        job, best, answer = _model(
            group, compared, diagnostics, losses, overlaps, config, missing, styles
        )
        jobs.append(job)
        lowest += best
        mixtures += answer
    tokens = answers.source_tokens(sources, missing) + answers.eval_tokens(generations, missing)
    gained = pd.concat([this["gains"] for this in evals if len(this["gains"])] or [pd.DataFrame()])
    jobs.append(partial(gallery_model.of_tokens, tokens, gained, styles))
    finished = drawing.finish(jobs)
    texts, looks = style.classes(
        [
            style.inline(one.svg, f"f{i}", one.drawn.description, one.drawn.picture.tips)
            for i, one in enumerate(finished)
        ]
    )
    pictures: dict[str, list[dict]] = {}
    for one, text in zip(finished, texts, strict=True):
        drawn = one.drawn
        picture = {"svg": Markup(text), "caption": drawn.caption, "table": _table(drawn)}
        pictures.setdefault(drawn.topic, []).append(picture)
    script = SCRIPT.read_text(encoding="utf-8")
    page = (
        environment()
        .get_template("page.html")
        .render(
            run=rows["run"].iloc[0] if len(rows) else "",
            rows=rows.to_dict("records"),
            printed=bool(rows.filter(like="paper_").notna().any(axis=None)),
            evals=evals,
            headline=headline,
            elsewhere=elsewhere,
            pictures=pictures,
            lowest=lowest,
            mixtures=mixtures,
            style=styles,
            tokens=tokens,
            speeds=money.measured_speed(rows),
            runtimes=money.timed(rows).to_dict("records"),
            missing=missing,
            lacking=lacking or [],
            identity=rows[["config_sha256", "code_version"]].drop_duplicates().to_dict("records"),
            provenance=list(_flat(provenance)),
            config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
            seeds=list(_seeds(config)),
            stages=stages or [],
            energy=bool(rows["joules_generate"].notna().any()),
            machines=times.machines(generations),
            look=Markup(LOOK.read_text(encoding="utf-8") + looks),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            downloads=dict(map(_download, (summary, comparisons, budgets))),
        )
    )
    with atomic_folder(output.parent / "figures") as folder:
        for one in finished:
            drawing.save(one, folder)
    write_text(output, page)
    figures = sorted(figure.name for figure in (output.parent / "figures").iterdir())
    shown = hashes(output.parent, output.name, *(f"figures/{name}" for name in figures))
    made = provenance["page"]
    inputs = made.get("inputs", {}) | {"files": files}
    write_record(output.with_suffix(".json"), shown | {"provenance": made | {"inputs": inputs}})


def _eval(
    rows: pd.DataFrame,
    compared: pd.DataFrame,
    budgets: pd.DataFrame,
    generations: list[dict],
    missing: list[str],
) -> dict[str, Any]:
    """What the page says of one (model, eval)."""
    model, name = rows[["model", "eval"]].iloc[0]
    variant = tidy.shown_variant(rows)
    subject = tidy.subject(rows["calibration"]) or ""
    of_eval, cut = (
        frame[(frame["model"] == model) & (frame["eval"] == name)] for frame in (compared, budgets)
    )
    differences = tidy.against(of_eval, subject)
    shown = ["dense", variant]
    cells = [
        cell
        for cell in generations
        if (cell["model"], cell["eval"]) == (model, name) and cell["variant"] in shown
    ]
    return {
        "model": model,
        "eval": name,
        "rows": rows,
        "variant": variant,
        "general": not tidy.samples(rows),
        "shown": rows[rows["variant"].isin(shown)].to_dict("records"),
        "differences": differences,
        "compared": differences.to_dict("records"),
        "samples": lengths.lengths(cells, missing),
        "budgets": cut[cut["variant"].isin(shown)],
        "problems": answers.side_by_side(cells, missing),
        "gains": written.gains(cells, subject, missing).assign(model=model, eval=name),
    }


def _model(
    rows: pd.DataFrame,
    compared: pd.DataFrame,
    diagnostics: list[dict],
    losses: list[dict],
    overlaps: list[dict],
    config: dict,
    missing: list[str],
    styles: dict[str, style.Style],
) -> tuple[Callable, list[dict], list[dict]]:
    """What draws a model's held-out data, in how many layers each calibration is best, and of mixtures."""
    model = rows["model"].iloc[0]
    once = rows.drop_duplicates(["calibration", "variant"])
    variant = tidy.shown_variant(once) or ""
    measured, read = (
        [cell for cell in of if (cell["model"], cell["variant"]) == (model, variant)]
        for of in (diagnostics, losses)
    )
    errors = [
        cell | {"layers": read_json(cell["path"])["layers"]}
        for cell in measured
        if answers.there(cell["path"], missing)
    ]
    frame = tidy.layers(errors)
    tokens = [cell for cell in read if answers.there(cell["tokens"], missing)]
    alike: dict[str, pd.DataFrame] = {}
    for one in overlaps:
        if one["model"] == model and answers.there(one["path"], missing):
            pairs = tidy.read(one["path"])  # of another run, it may hold others
            known = pairs[["calibration", "baseline"]].isin(set(rows["calibration"])).all(axis=1)
            alike |= {one["variant"]: pairs[known]} if known.any() else {}
    mixed = outside.mixtures(config, tidy.losses(once))
    subject = tidy.subject(once.loc[once["variant"] == variant, "calibration"], tidy.akin(config))
    by_token = mechanism.tokens(tokens)
    job = partial(
        gallery_model.of_model,
        *(once, frame, variant, subject or "", by_token, alike, mixed, styles),
    )
    best = [{"model": model, "variant": variant} | one for one in tidy.lowest(frame)]
    mixtures = [{"model": model, "answer": _of_mixtures(mixed, compared, model)}]
    return job, best, mixtures if len(mixed) else []


def _of_mixtures(mixed: pd.DataFrame, compared: pd.DataFrame, model: str) -> str:
    """Whether a mixture keeps both, of `outside.keeps_both`."""
    if mixed.empty:
        return ""
    variant, ends = mixed["variant"].iloc[0], mixed["calibration"]
    here = compared[(compared["model"] == model) & (compared["variant"] == variant)]
    text, accuracy = (
        tidy.against(here, ends.iloc[-1], "loss_text"),
        tidy.against(here, ends.iloc[0]),
    )
    return outside.keeps_both(mixed, text, accuracy)


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
        "hundredths": partial(_format, "{:.2f}"),
        "times": partial(_format, "{:.2f} ×"),
        "mebibytes": partial(_format, "{:,.1f}", scale=2**-20),
    }
    return env


def _format(form: str, value: Any, scale: float = 1) -> str:
    """A number as text; – where there is none."""
    if value is None or value == "" or pd.isna(value):
        return "–"
    return form.format(float(value) * scale).replace("-", "−").replace("%", " %")


def _table(drawn: drawing.Drawn) -> dict[str, Any]:
    """The numbers behind a figure: heads and rows of text, and how many rows were left out."""
    frame = drawn.frame if drawn.table is None else drawn.table
    frame = frame.drop(columns=["solver", "pattern", "family"], errors="ignore")
    rows = [
        [_cell(value) for value in row]
        for row in frame.head(ROWS).itertuples(index=False, name=None)
    ]
    return {
        "name": drawn.name,
        "heads": [str(name).replace("_", " ") for name in frame.columns],
        "rows": rows,
        "left_out": max(len(frame) - ROWS, 0),
    }


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    if value == math.inf:
        return style.UNSOLVED
    return str(value) if isinstance(value, bool | int) else f"{value:.4g}".replace("-", "−")


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _seeds(config: dict) -> Iterator[tuple[str, Any]]:
    """Every seed of a configuration, by where it stands."""
    return ((key, value) for key, value in _flat(config) if key.endswith("seed"))


def _download(path: Path) -> tuple[str, str]:
    """The name and the data URL of a table; packed if it is large."""
    name, data, kind = path.name, path.read_bytes(), "text/csv"
    if len(data) > UNPACKED:
        name, data, kind = f"{name}.gz", gzip.compress(data, mtime=0), "application/gzip"
    return name, f"data:{kind};base64,{base64.b64encode(data).decode()}"
