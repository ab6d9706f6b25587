"""What the rules ask of the configuration: each question is a function of the wildcards.

A rule writes `ask("threads")`, and holds no logic itself. Imports no torch.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from rac import costs, inventory, plan, resources, status
from rac.config import Config
from rac.costs import Cost
from rac.datasets import embedded, files
from rac.engines import choose
from rac.errors import RacError
from rac.evaluate import sandbox, task_files
from rac.evaluate.task_files import SAMPLES, output_type, runs_programs
from rac.fingerprint import PACKAGE, stage
from rac.matrix import EXECUTION, Cell, defining, masked, restrict
from rac.models.checkpoint import beside_weights, check_folder, weight_names
from rac.models.reasoner import WEIGHTS
from rac.resources import Assumed

BESIDE_GPU = 4  # CPU threads that feed a GPU
SAMPLING = ("traces", "generate")  # rules that an engine may spread over several GPUs


def check(config: Config) -> None:
    """Refuse, before any job starts, what the active run cannot be made from.

    Raises:
        RacError: a file, folder, embedded split, lm-eval task or sandbox is not there, or an eval asks
            what its task or dataset does not have.
    """
    used = restrict(config)
    for name, model in used.models.items():
        if model.path:
            check_folder(model.path, name)
    for name, dataset in used.datasets.items():
        if dataset.embedded:
            embedded.check(dataset, name)
        files.check(dataset, name)
    for name, evaluation in used.evals.items():
        try:
            task_files.check_whole(evaluation.task)
            programs, samples = runs_programs(evaluation.task), _samples(evaluation.task)
        except RacError as error:
            raise RacError(f"evals.{name}.task: {error}") from None
        if programs:
            sandbox.check(evaluation.sandbox)
        asked = used.datasets[evaluation.dataset]
        if samples and asked.kind == "problems" and asked.columns.answer is None:
            raise RacError(f"evals.{name}.dataset: '{evaluation.dataset}' has no answers")
        for key in () if samples else ("samples", "shards"):
            if getattr(evaluation, key) > 1:
                raise RacError(
                    f"evals.{name}.{key}: '{evaluation.task}' is scored by log-likelihood, which draws no "
                    "samples; leave it out"
                )


def _samples(task: str) -> bool:
    return output_type(task) == SAMPLES


def any_of(names: Iterable[str]) -> str:
    """A regular expression that matches these names only."""
    return "|".join(map(re.escape, names)) or "(?!)"


def any_compared(config: Config) -> str:
    """A regular expression of the models, each followed by the variants whose zeros are compared."""
    followed = (
        f"{re.escape(model)}(?=/overlaps/(?:{any_of(masked(config, model))})[.])"
        for model in config.models
    )
    return "|".join(followed)


def spec(
    config: Config, kind: str, wildcard: str, without: Iterable[str] = ()
) -> Callable[[Any], str]:
    """The definition that a wildcard names, as JSON, without the keys that a stage does not read."""
    unread = {*EXECUTION.get(kind, ()), "engine", *without}
    return lambda wildcards: getattr(config, kind)[wildcards[wildcard]].model_dump_json(
        exclude=unread
    )


def ask(config: Config, question: str) -> Callable[[Any], Any]:
    """One of the functions below, bound to the configuration."""
    return partial(globals()[question], config)


def dtype(config: Config, wildcards: Any) -> str:
    """The type of number that a model runs in."""
    return config.models[wildcards.model].dtype


def gpu(config: Config, wildcards: Any) -> int:
    """GPUs of a job that runs the model on one."""
    model = config.models[wildcards.model]
    return int((model.device or ("cpu" if model.dtype == "float32" else "gpu")) == "gpu")


def gpus(config: Config, wildcards: Any) -> int:
    """GPUs of a job that samples from the model: one, unless vLLM spreads it over more."""
    answers = generate_engine if hasattr(wildcards, "eval") else engine
    several = answers(config, wildcards) == "vllm"
    return gpu(config, wildcards) * (tensor_parallel(config, wildcards) if several else 1)


def threads(config: Config, wildcards: Any) -> int:
    """CPU threads of a job that runs the model: on it, or to feed a GPU."""
    free = BESIDE_GPU if gpu(config, wildcards) else os.cpu_count()
    return config.models[wildcards.model].threads or free or 1


def every_thread(config: Config, wildcards: Any) -> int:
    """More threads than a machine has: Snakemake lowers them to all cores that it may use."""
    return 2**15


def memory(config: Config, rule: str) -> Callable[[Any, int], int]:
    """Megabytes of host memory that a job of a rule asks for, at the given attempt."""

    def asked(wildcards: Any, attempt: int) -> int:
        count = (gpus if rule.partition("_")[0] in SAMPLING else gpu)(config, wildcards)
        return resources.megabytes(_cost(config, rule, wildcards), count, attempt)

    return asked


def minutes(config: Config, rule: str) -> Callable[[Any, int], int]:
    """Minutes that a job of a rule asks for, at the given attempt."""

    def asked(wildcards: Any, attempt: int) -> int:
        return resources.minutes(_cost(config, rule, wildcards), attempt)

    return asked


def _cost(config: Config, rule: str, wildcards: Any) -> Cost:
    """What a job takes; a guess where the model's sizes are not known yet."""
    name = wildcards.model
    known = plan.known_models(config, [name])
    try:
        shape = costs.shape(known[name], config.models[name].dtype)
    except (KeyError, RacError):
        return resources.UNKNOWN
    device = resources.device(gpu(config, wildcards), threads(config, wildcards))
    rows = plan.known_rows(config)
    several = config.models[name].tensor_parallel
    assumed = Assumed(device, engine=engine(config, wildcards), tensor_parallel=several)
    return resources.cost(config, shape, rows, assumed, rule, wildcards)


def engine(config: Config, wildcards: Any) -> str:
    """What samples from a model and all that is compressed from it."""
    model = config.models[wildcards.model]
    return choose(model.engine, model.dtype, model.device)


def tensor_parallel(config: Config, wildcards: Any) -> int:
    """GPUs that the engine spreads a model over."""
    return config.models[wildcards.model].tensor_parallel


def traces_code(config: Config, wildcards: Any) -> str:
    """Fingerprint of the traces stage, with the model's engine."""
    return stage("traces", f"rac.engines.{engine(config, wildcards)}")


def generate_engine(config: Config, wildcards: Any) -> str:
    """What answers an eval: the model's engine, or `likelihoods` where the task draws no samples."""
    sampled = _samples(eval_task(config, wildcards))
    return engine(config, wildcards) if sampled else "likelihoods"


def generate_code(config: Config, wildcards: Any) -> str:
    """Fingerprint of the generate stage, with the model's engine if the task draws samples."""
    chosen = generate_engine(config, wildcards)
    if chosen == "likelihoods":
        return stage("likelihoods")
    return stage("generate", f"rac.engines.{chosen}")


def dataset_file(config: Config, wildcards: Any) -> list[str]:
    """The user's own file that a dataset is read from."""
    path = config.datasets[wildcards.dataset].path
    return [str(path)] if path else []


def dataset_without(config: Config, wildcards: Any) -> list[str]:
    """The datasets whose problems are dropped from a dataset."""
    others = config.datasets[wildcards.dataset].without
    return [f"resources/datasets/{other}/data.jsonl" for other in others]


def dataset_code(config: Config, wildcards: Any) -> str:
    """Fingerprint of the dataset stage, with the text that an embedded dataset ships."""
    embedded = config.datasets[wildcards.dataset].embedded
    of_text = embedded in ("c4", "word-order")
    return stage("dataset", *(["models/reasoner/text/c4.jsonl.gz"] if of_text else []))


def model_files(config: Config, wildcards: Any) -> list[str]:
    """What the model stage reads of a local folder: weights, tokenizer, chat template, …"""
    path = config.models[wildcards.model].path
    if path is None:
        return []
    try:
        weights = [path / name for name in weight_names(path)]
    except RacError:
        weights = []  # the stage says what is wrong
    read = [file for file in (*beside_weights(path), *weights) if file.is_file()]
    return sorted({str(file) for file in (path / "config.json", *read)})


def model_code(config: Config, wildcards: Any) -> str:
    """Fingerprint of the model stage, with the weights that the embedded model ships."""
    embedded = config.models[wildcards.model].embedded
    names = sorted(file.name for file in WEIGHTS.iterdir()) if embedded else []
    return stage("model", *(f"models/reasoner/weights/{name}" for name in names))


def source_chat(config: Config, wildcards: Any) -> str:
    """What the model is told beside a problem, as JSON; nothing, where a source renders no prompts."""
    source, model = config.sources[wildcards.source], config.models[wildcards.model]
    return "{}" if source.kind in ("text", "traces") else model.chat.model_dump_json()


def source_dataset(config: Config, wildcards: Any) -> str:
    """The rows that a source is made from."""
    return f"resources/datasets/{config.sources[wildcards.source].dataset}/data.jsonl"


def source_traces(config: Config, wildcards: Any) -> list[str]:
    """The traces that a source of that kind is made from."""
    source = config.sources[wildcards.source]
    if source.kind != "traces":
        return []
    other = source.traces_of
    model = (other and other.model) or wildcards.model
    name = other.source if other else wildcards.source
    return [f"results/{model}/traces/{name}/traces.jsonl.zst"]


def source_other_model(config: Config, wildcards: Any) -> list[str]:
    """The model whose traces a source takes, if it is another one."""
    other = config.sources[wildcards.source].traces_of
    return [f"resources/models/{other.model}"] if other and other.model else []


def shard(config: Config, wildcards: Any) -> str:
    """Which shard of how many a job makes, such as 0/8."""
    return f"{wildcards.shard}/{_shards(config, wildcards)}"


def trace_shards(config: Config, wildcards: Any) -> list[str]:
    """The shards that a source's traces are put together from; none where one job makes them."""
    count = _shards(config, wildcards)
    return inventory.shards(wildcards.model, "traces", wildcards.source, count)


def hessian_shards(config: Config, wildcards: Any) -> list[str]:
    """The shards that a source's Hessians are added up from; none where one job makes them."""
    count = _shards(config, wildcards)
    return inventory.shards(wildcards.model, "hessians", wildcards.source, count)


def generation_shards(config: Config, wildcards: Any) -> list[str]:
    """The shards that a cell's generations are put together from; none where one job makes them."""
    cell = f"{wildcards.calibration}/{wildcards.variant}/{wildcards.eval}"
    return inventory.shards(wildcards.model, "generate", cell, _shards(config, wildcards))


def _shards(config: Config, wildcards: Any) -> int:
    if hasattr(wildcards, "eval"):
        sampled = _samples(eval_task(config, wildcards))
        return config.evals[wildcards.eval].shards if sampled else 1
    return config.sources[wildcards.source].shards


def spill(config: Config, wildcards: Any) -> str:
    """The folder where a model's hidden states wait; empty if that is memory."""
    return str(config.models[wildcards.model].spill or "")


def sources_code(config: Config, wildcards: Any) -> str:
    """Fingerprint of the sources stage, and of how it chooses among traces."""
    chosen = ["rac.select"] if config.sources[wildcards.source].select else []
    return stage("sources", *chosen)


def calibration_hessians(config: Config, wildcards: Any) -> list[str]:
    """The stored Hessians of a calibration that a variant reads."""
    variant = config.variant_cells()[wildcards.variant][1]
    if wildcards.calibration == "none" or not variant.needs_stored:
        return []
    sources = config.calibrations[wildcards.calibration].sources(config.sources)
    return [f"results/{wildcards.model}/hessians/{source}" for source in sources]


def compress_sequences(config: Config, wildcards: Any) -> list[str]:
    """The sequences that a variant runs through the model, beside the calibration's Hessians."""
    variant = config.variant_cells()[wildcards.variant][1]
    sources = [variant.allocation_source] if variant.allocation_source else []
    if variant.needs_sequences and wildcards.calibration != "none":
        sources += config.calibrations[wildcards.calibration].sources(config.sources)
    return [
        f"results/{wildcards.model}/sources/{source}/sequences.safetensors"
        for source in dict.fromkeys(sources)
    ]


def calibration_spec(config: Config, wildcards: Any) -> str:
    """A calibration's weights as JSON; null where a solver needs no Hessian."""
    if wildcards.calibration == "none":
        return "null"
    return config.calibrations[wildcards.calibration].model_dump_json()


def variant_spec(config: Config, wildcards: Any) -> str:
    """The definition of a single variant as JSON."""
    return config.variant_cells()[wildcards.variant][1].model_dump_json()


def variant_pattern(config: Config, wildcards: Any) -> str:
    """The pattern of a single variant as `rac.solve` takes it."""
    return config.variant_cells()[wildcards.variant][0]


def compress_code(config: Config, wildcards: Any) -> str:
    """Fingerprint of the compress stage, and of what the variant chooses."""
    variant = config.variant_cells()[wildcards.variant][1]
    chosen = ["rac.solvers.magnitude"]  # what every solver is warned against
    if variant.solver:
        chosen.append(f"rac.solvers.{variant.solver}")
    if variant.solver == "structured":
        chosen.append("rac.models.narrow")
    if variant.quantize:
        chosen += ["rac.solvers.gptq", "rac.solvers.grids", "rac.models.quantized"]
    if variant.quantize and variant.quantize.smooth:
        chosen.append("rac.smooth")
    if variant.allocation:
        chosen.append("rac.allocation")
    if variant.needs_sequences:
        chosen.append("rac.propagation")
    if variant.reconstruct:
        chosen.append("rac.reconstruct")
    return stage("compress", *chosen)


def checkpoint(config: Config, wildcards: Any) -> str:
    """The cell's Hugging Face folder."""
    return Cell(wildcards.model, wildcards.calibration, wildcards.variant).checkpoint


def diagnostics_code(config: Config, wildcards: Any) -> str:
    """Fingerprint of the diagnostics stage, and of what reads quantized weights if the variant has them."""
    _, variant = config.variant_cells().get(wildcards.variant, ("", None))  # not the dense model
    chosen = ["rac.models.quantized", "rac.solvers.grids"] if variant and variant.quantize else []
    return stage("diagnostics", *chosen)


def eval_dataset(config: Config, wildcards: Any) -> str:
    """The problems of an eval."""
    return f"resources/datasets/{config.evals[wildcards.eval].dataset}/data.jsonl"


def eval_task(config: Config, wildcards: Any) -> str:
    """The lm-eval task of an eval."""
    return config.evals[wildcards.eval].task


def score_code(config: Config, wildcards: Any) -> str:
    """Fingerprint of the score stage, with what runs programs if the eval's task does."""
    programs = runs_programs(config.evals[wildcards.eval].task)
    return stage("score", *(["rac.evaluate.tasks.code_utils"] if programs else []))


def eval_chat(config: Config, wildcards: Any) -> str:
    """What the model is told beside a problem, as JSON; nothing, where it is not to answer in writing."""
    sampled = _samples(config.evals[wildcards.eval].task)
    return config.models[wildcards.model].chat.model_dump_json() if sampled else "{}"


def eval_task_file(config: Config, wildcards: Any) -> list[str]:
    """The user's own task file, where the task is one, and what else of the user's it is read from."""
    task = config.evals[wildcards.eval].task
    if not task.endswith((".yaml", ".yml")):
        return []
    _, *others = task_files.read_from(Path(task))
    package = PACKAGE.resolve()  # its files are in the fingerprints
    return [task, *(from_here(file) for file in others if not file.is_relative_to(package))]


def overlap_checkpoints(config: Config, wildcards: Any) -> list[str]:
    """The checkpoints of a variant whose zeros are compared."""
    calibrations = masked(config, wildcards.model)[wildcards.variant]
    return [
        Cell(wildcards.model, calibration, wildcards.variant).checkpoint
        for calibration in calibrations
    ]


def overlap_hessians(config: Config, wildcards: Any) -> list[str]:
    """The stored Hessians of the calibrations that are compared."""
    calibrations = masked(config, wildcards.model)[wildcards.variant]
    used = [config.calibrations[name].sources(config.sources) for name in calibrations]
    names = dict.fromkeys(source for sources in used for source in sources)
    return [f"results/{wildcards.model}/hessians/{source}" for source in names]


def overlap_spec(config: Config, wildcards: Any) -> str:
    """What `rac.overlaps.write_overlaps` takes, as JSON."""
    calibrations = masked(config, wildcards.model)[wildcards.variant]
    hessians = overlap_hessians(config, wildcards)
    spec = {
        "checkpoints_of": dict(
            zip(calibrations, overlap_checkpoints(config, wildcards), strict=True)
        ),
        "calibrations": {
            name: config.calibrations[name].model_dump(mode="json") for name in calibrations
        },
        "sources": {os.path.basename(folder): folder for folder in hessians},
    }
    return json.dumps(spec)


def run_config(config: Config, wildcards: Any) -> str:
    """The definitions that the active run hangs on, as JSON."""
    return json.dumps(defining(config))


def chosen_by(config: Config, files: Iterable[str | os.PathLike[str]]) -> str:
    """The options of Snakemake that choose the configuration and the active run, for a shell.

    Args:
        config: the configuration.
        files: those given by --configfile; shown relative to the working directory where they lie in it.
    """
    named = [from_here(file) for file in files]
    options = ["--configfile", *named] if named else []
    return shlex.join([*options, "--config", f"run={config.run}"])


def from_here(file: str | os.PathLike[str]) -> str:
    """A file relative to the working directory, where it lies in it: the same on another machine."""
    here, path = Path.cwd(), Path(file).absolute()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def show_failures(config: Config) -> None:
    """Print a line for what failed, with what its log says last."""
    for row in status.status(config, over=True):
        if row.state == "failed":
            print(f"{row.name} failed: {row.said}", file=sys.stderr)


def show_table(file: str, started: str) -> None:
    """Print the table if this call made it; one that was there before may be of another run.

    Args:
        file: the table.
        started: what the call wrote, before its first job, on the same disk: its clock tells for both.
    """
    path = Path(file)
    if path.exists() and path.stat().st_mtime_ns > Path(started).stat().st_mtime_ns:
        print(path.read_text(encoding="utf-8"))
