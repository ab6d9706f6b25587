"""python -m rac VERB …: one verb a stage, the only way that the workflow's rules call code.

Definitions come as JSON, exactly as config.yaml states them. A message of one line and exit code 1 mean
that something outside the code is to be put right.
"""

import gc
import os
import re
import shlex
import sys
from functools import partial, reduce
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from rac import config as configuration
from rac import definitions, logs, slots
from rac.errors import RacError
from rac.variants import Variant

Kind = TypeVar("Kind", bound=BaseModel)
# As torch says it, of GPUs and of the CPU.
SHORT = re.compile("out of memory|can't allocate memory")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def definition(kind: type[BaseModel]) -> Any:
    """An option that takes a definition of config.yaml as JSON."""
    what = f"a {kind.__name__.lower()} as config.yaml defines it"
    return typer.Option(parser=partial(parse, kind), metavar="JSON", help=what)


def parse(kind: type[Kind], text: str) -> Kind:
    """The definition that `text` holds as JSON.

    Raises:
        RacError: the first thing that is wrong with it.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([kind.__name__, *map(str, first["loc"])])
        raise RacError(f"{where}: {first['msg']}") from None


# Tasks of lm-eval ask nobody: rows come from data files, and tokenizers from folders.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}


def shard_of(text: str) -> tuple[int, int]:
    """Which shard of how many, written as 0/8.

    Raises:
        RacError: it is none.
    """
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise RacError(f"'{text}' is no shard: write 0/8 for the first of eight")
    return int(number), int(count)


Output = Annotated[Path, typer.Option(help="what is written, whole or not at all")]
Code = Annotated[str, typer.Option(help="fingerprint of the stage's code, with what is chosen")]
Name = Annotated[str, typer.Option(help="its name in config.yaml")]
Dtype = Annotated[str, typer.Option(help="what the model runs in: float32, bfloat16 or float16")]
Engine = Annotated[str, typer.Option(help="what samples: transformers or vllm")]
Answerer = Annotated[
    str, typer.Option(help="what samples, or `likelihoods` where nothing is sampled")
]
Parallel = Annotated[int, typer.Option(help="vllm: GPUs that share each layer")]
Folder = Annotated[Path, typer.Option(help="a Hugging Face folder")]
Shard = Annotated[
    Any, typer.Option(metavar="I/N", parser=shard_of, help="only this shard, as a folder; from 0/N")
]
Shards = Annotated[list[Path], typer.Option(help="the shards that were made, to put together")]
File = Annotated[Path, typer.Option()]
ConfigFile = Annotated[
    Path, typer.Option(help="laid over config.yaml, as Snakemake's --configfile is")
]
Spill = Annotated[str, typer.Option(help="a folder for hidden states to wait in; memory without")]


@app.callback()
def job(
    gpus: Annotated[
        int | None, typer.Option(help="GPUs that the verb may see, and has to itself")
    ] = None,
) -> None:
    """One verb a stage of the workflow."""
    logs.hold()
    if gpus is not None:
        slots.take(gpus)


@app.command()
def dataset(
    spec: Annotated[Any, definition(definitions.Dataset)],
    name: Name,
    code: Code,
    output: Output,
    without: Annotated[
        list[Path], typer.Option(help="data.jsonl of datasets to be apart from")
    ] = [],  # noqa: B006
) -> None:
    """Rows of problems or documents."""
    from rac.datasets.prepare import prepare_dataset

    prepare_dataset(spec, name, output, {file.parent.name: file for file in without}, code)


@app.command()
def model(
    spec: Annotated[Any, definition(definitions.Model)], name: Name, code: Code, output: Output
) -> None:
    """The dense model as a Hugging Face folder."""
    from rac.models.prepare import prepare_model

    prepare_model(spec, name, output, code)


@app.command()
def traces(
    spec: Annotated[Any, definition(definitions.Source)],
    name: Name,
    model_spec: Annotated[Any, definition(definitions.Model)],
    model: Folder,
    dataset: Annotated[Path, typer.Option(help="the dataset's data.jsonl")],
    engine: Engine,
    tensor_parallel: Parallel,
    code: Code,
    output: Output,
    shard: Shard = None,
    shards: Shards = [],  # noqa: B006
) -> None:
    """On-policy chains of thought of the dense model."""
    from rac.traces import Asked, write_shard, write_traces

    asked = Asked(spec, name, model_spec, model, dataset, engine, tensor_parallel, code)
    if shard:
        write_shard(asked, output, shard)
    else:
        write_traces(asked, output, shards)


@app.command()
def sources(
    spec: Annotated[Any, definition(definitions.Source)],
    name: Name,
    model: Folder,
    dataset: Annotated[Path, typer.Option(help="the dataset's data.jsonl")],
    chat: Annotated[Any, definition(definitions.Chat)],
    code: Code,
    output: Output,
    traces: Annotated[Path | None, typer.Option(help="traces.jsonl.zst, for kind traces")] = None,
    other_model: Annotated[Path | None, typer.Option(help="whose traces, if another's")] = None,
) -> None:
    """Token sequences of a source."""
    from rac.sources import write_sequences

    write_sequences(spec, name, model, dataset, traces, output, other_model, code, chat)


@app.command()
def hessians(
    dtype: Dtype,
    model: Folder,
    sequences: Annotated[Path, typer.Option(help="sequences.safetensors of the source")],
    output: Output,
    spill: Spill = "",
    shard: Shard = None,
    shards: Shards = [],  # noqa: B006
) -> None:
    """Hessians of the dense model over a source."""
    from rac.hessians import accumulate, add

    if shards:
        add(shards, output)
    else:
        accumulate(
            model,
            sequences,
            dtype,
            output,
            shard=shard or (0, 1),
            spill=Path(spill) if spill else None,
        )


@app.command()
def compress(
    spec: Annotated[Any, definition(Variant)],
    calibration_spec: Annotated[str, typer.Option(metavar="JSON", help="null without Hessians")],
    pattern: Annotated[str, typer.Option(help="as rac.solve takes it")],
    model_name: Name,
    calibration_name: Name,
    variant_name: Name,
    dtype: Dtype,
    model: Folder,
    code: Code,
    output: Output,
    hessians: Annotated[list[Path], typer.Option(help="folders, each called like its source")] = [],  # noqa: B006
    sequences: Annotated[
        list[Path], typer.Option(help="in folders called like their sources")
    ] = [],  # noqa: B006
    spill: Spill = "",
) -> None:
    """A compressed checkpoint."""
    from rac.compress import compress as compress_model

    names = {"model": model_name, "calibration": calibration_name, "variant": variant_name}
    calibration = (
        None if calibration_spec == "null" else parse(definitions.Calibration, calibration_spec)
    )
    stored = {folder.name: folder for folder in hessians}
    of_source = {file.parent.name: file for file in sequences}
    wait_on = Path(spill) if spill else None
    compress_model(
        model, stored, calibration, spec, pattern, names, output, of_source, dtype, wait_on, code
    )


@app.command()
def requests(
    task: Annotated[str, typer.Option(help="an lm-eval task")],
    dataset: Annotated[Path, typer.Option(help="the dataset's data.jsonl")],
    model: Folder,
    chat: Annotated[Any, definition(definitions.Chat)],
    output: Output,
) -> None:
    """The prompts of an evaluation, by lm-eval and the model's chat template."""
    os.environ.update(OFFLINE)
    from rac.evaluate.requests import build_requests

    build_requests(task, dataset, model, output, chat)


@app.command()
def generate(
    spec: Annotated[Any, definition(definitions.Eval)],
    model_spec: Annotated[Any, definition(definitions.Model)],
    checkpoint: Folder,
    requests: File,
    engine: Answerer,
    tensor_parallel: Parallel,
    code: Code,
    output: Output,
    shard: Shard = None,
    shards: Shards = [],  # noqa: B006
) -> None:
    """A checkpoint's answers, or the log-likelihoods of those that are given."""
    if engine == "likelihoods":
        from rac.likelihoods import write_likelihoods

        write_likelihoods(model_spec.dtype, checkpoint, requests, code, output)
        return
    from rac.generate import Asked, write_generations, write_shard

    asked = Asked(spec, model_spec, checkpoint, requests, engine, tensor_parallel, code)
    if shard:
        write_shard(asked, output, shard)
    else:
        write_generations(asked, output, shards)


@app.command()
def score(
    spec: Annotated[Any, definition(definitions.Eval)],
    dataset: Annotated[Path, typer.Option(help="the dataset's data.jsonl")],
    requests: File,
    generations: File,
    code: Code,
    scores: Output,
    metrics: Output,
) -> None:
    """Verdicts and metrics of stored answers."""
    os.environ.update(OFFLINE)
    from rac.evaluate.score import score as score_generations

    score_generations(spec, dataset, requests, generations, scores, metrics, code)


@app.command()
def diagnostics(
    dtype: Dtype,
    model: Folder,
    checkpoint: Folder,
    hessians: Annotated[Path, typer.Option(help="Hessians of held-out traces")],
    code: Code,
    output: Output,
) -> None:
    """Layer errors on Hessians that no calibration saw."""
    from rac.diagnostics import diagnose

    diagnose(checkpoint, model, hessians, dtype, code, output)


@app.command()
def losses(
    dtype: Dtype,
    model: Folder,
    checkpoint: Folder,
    thoughts: Annotated[Path, typer.Option(help="sequences of held-out traces")],
    text: Annotated[Path, typer.Option(help="sequences of held-out text")],
    output: Output,
    tokens: Output,
) -> None:
    """Losses, divergences and errors by token on what no calibration saw."""
    from rac.losses import measure_losses

    measure_losses(checkpoint, model, thoughts, text, dtype, output, tokens)


@app.command()
def overlaps(
    spec: Annotated[str, typer.Option(help="what is compared, as JSON")],
    model: Folder,
    output: Output,
) -> None:
    """How alike calibrations choose: kept weights, and what makes a weight important."""
    import json

    from rac.overlaps import write_overlaps

    write_overlaps(model, **json.loads(spec), output=output)


@app.command()
def runtime(
    spec: Annotated[Any, definition(definitions.Workload)],
    dtype: Dtype,
    model: Folder,
    checkpoint: Folder,
    output: Output,
) -> None:
    """Speed, memory and size beside the dense model's."""
    from rac.runtime import measure_runtime

    measure_runtime(spec, model, checkpoint, dtype, output)


@app.command()
def summary(
    config: Annotated[Any, definition(configuration.Config)],
    code_version: Annotated[str, typer.Option(help="of the code that made the numbers")],
    output: Output,
) -> None:
    """The tables of a run: summary.csv, comparisons.csv, budgets.csv and summary.txt."""
    from rac import matrix
    from rac.report.summary import summarize

    cells = matrix.summary_cells(config)
    summarize(cells, config.run, matrix.identity(config), code_version, output)


@app.command()
def report(
    config: Annotated[Any, definition(configuration.Config)],
    summary: Annotated[Path, typer.Option(help="comparisons.csv and budgets.csv lie beside it")],
    options: Annotated[str, typer.Option(help="of snakemake, that choose the run")],
    output: Output,
) -> None:
    """The page of a run."""
    _write_page(config, summary, options, output)


def _write_page(
    config: Any, summary: Path, options: str, output: Path, lacking: list[dict] | None = None
) -> None:
    from rac import matrix
    from rac.provenance import provenance
    from rac.report import page, times

    made = provenance("report", config_sha256=matrix.identity(config))["provenance"]
    command = f"snakemake --cores {made['machine']['cores']} {options}"
    cells = matrix.report_cells(config)
    jobs = matrix.jobs(config)
    models = sorted({cell.model for cell in jobs})
    page.report(
        summary,
        summary.with_name("comparisons.csv"),
        summary.with_name("budgets.csv"),
        **cells,
        config=config.model_dump(mode="json"),
        provenance={"command": command, "this machine": times.machine(), "page": made},
        output=output,
        stages=times.stage_times(Path("results"), models, jobs),
        lacking=lacking,
    )


@app.command()
def preview(
    config: ConfigFile = Path("config.yaml"),
    run: Annotated[str | None, typer.Option(help="the active run if left out")] = None,
) -> None:
    """Table and page of a run that is not finished or failed in places, in results/preview/."""
    from rac import matrix
    from rac.report import preview as previews
    from rac.report.summary import summarize
    from rac.rules import chosen_by

    settings = matrix.restrict(_read_config(config, run))
    cells = matrix.summary_cells(settings)
    lacking = previews.lacking(cells)
    output = Path("results/preview/summary.csv")
    identity, version = matrix.identity(settings), matrix.code_version()
    summarize(previews.so_far(cells), settings.run, identity, version, output)
    options = chosen_by(settings, [] if config == Path("config.yaml") else [config])
    _write_page(settings, output, options, output.with_name("report.html"), lacking)
    print(f"{len(cells) - len(lacking)} of {len(cells)} cells are complete: {output.parent}")


def _read_config(file: Path, run: str | None) -> configuration.Config:
    """config.yaml with `file` laid over it, as Snakemake has it, and `run` as its active run if named."""
    base = Path("config.yaml")
    files = [base, file] if base.exists() and file.resolve() != base.resolve() else [file]
    values = reduce(_laid_over, map(configuration.read, files))
    if run and isinstance(values, dict):
        values["run"] = run
    return configuration.validate(values, *files)


def _laid_over(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _laid_over(below.get(key), value) for key, value in above.items()}


@app.command()
def plan(
    config: ConfigFile = Path("config.yaml"),
    run: Annotated[str | None, typer.Option(help="the active run if left out")] = None,
    prompt: Annotated[int, typer.Option(min=1, help="tokens of a prompt, as assumed")] = 256,
    length: Annotated[
        float, typer.Option(min=0.001, max=1, help="mean of a sample's, of max_new_tokens")
    ] = 0.25,
) -> None:
    """What a run would take: jobs, memory, disk and GPU-hours by stage, before anything starts."""
    from rac import plan as plans

    settings = _read_config(config, run)
    known = plans.known_models(settings), plans.known_rows(settings)
    rows = plans.plan(settings, *known, prompt=prompt, length=length)
    print(plans.table(rows), end="")


@app.command()
def status(
    config: ConfigFile = Path("config.yaml"),
    run: Annotated[str | None, typer.Option(help="the active run if left out")] = None,
) -> None:
    """Where a run stands: what is done, runs, failed or is missing, with its time and size."""
    from rac import status as states

    print(states.table(states.status(_read_config(config, run))), end="")


@app.command()
def clean(
    config: ConfigFile = Path("config.yaml"),
    remove: Annotated[bool, typer.Option("--remove", help="remove what is listed")] = False,
) -> None:
    """List what no run of the configuration needs; remove it if asked to."""
    from rac import artifacts
    from rac import clean as cleaning
    from rac.status import LOCK, size

    if remove:
        artifacts.hold(LOCK)
    sizes = {path: size(path) / 1e6 for path in cleaning.unused(_read_config(config, None))}
    for path, megabytes in sizes.items():
        print(f"{megabytes:10,.1f} MB  {path}")
    if not remove:
        print(f"{sum(sizes.values()):10,.1f} MB  in all; --remove removes it")
        return
    left = cleaning.remove(list(sizes))
    kept = sum(size(path) for path in sizes if path.exists()) / 1e6
    print(f"{sum(sizes.values()) - kept:10,.1f} MB  removed")
    if left:
        raise RacError("; ".join(left))


@app.command()
def verify(
    folder: Annotated[Path, typer.Option(help="the project's folder")] = Path(),
) -> None:
    """Compare every artefact with the hashes that were written with it."""
    from rac.verify import verify as look_at

    seen, wrong = 0, []
    for finding in look_at(folder):
        seen += 1
        if finding.wrong:
            wrong.append(finding)
            print(finding.wrong, flush=True)
    print(f"{seen} files compared, {len(wrong)} of them damaged or missing")
    units = sorted({os.path.relpath(of.unit, folder) for of in wrong if of.unit})
    if units:
        again = shlex.join(units)
        print(
            f"A finished run does not miss what is deleted. In {folder.resolve()}, this makes it again:"
        )
        print(f"    rm -rf {again}; snakemake --cores {os.cpu_count()} {again}")
    if wrong:
        sys.exit(1)


@app.command()
def train_reasoner(
    output: Output,
    seed: Annotated[int, typer.Option()] = 0,
    steps: Annotated[int | None, typer.Option(help="the recipe's number if left out")] = None,
) -> None:
    """Train the embedded reasoner anew."""
    from rac.models.reasoner import train

    train.train(output, seed, train.STEPS if steps is None else steps)


@app.command()
def config_schema(output: Output) -> None:
    """The JSON schema of config.yaml, for editors."""
    from rac.artifacts import write_text

    write_text(output, configuration.schema())


@app.command()
def config_reference(output: Output) -> None:
    """Every key of config.yaml as a page of the documentation."""
    from rac.artifacts import write_text
    from rac.reference import reference

    write_text(output, reference())


def main() -> None:
    """Run a verb; a RacError, or want of memory, becomes one line on standard error and exit code 1."""
    try:
        app(prog_name="python -m rac")
    except RacError as error:
        _end(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "rac").startswith("rac"):
            raise
        _end(
            f"the package '{error.name}' is not installed: pip install -e . installs what is missing"
        )
    except OSError as error:
        if error.filename is None:
            raise
        _end(f"{error.filename}: {error.strerror}")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not SHORT.search(str(error)):
            raise
        _end(f"memory is short: {str(error)[:200]} (docs/planning.md has what a stage needs)")
    finally:
        gc.freeze()  # Python would look through all objects once more: a tenth of a short job's time


def _end(message: str) -> NoReturn:
    print(f"rac: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
