"""From a dataset and a model's name to results/summary.csv. Definitions and runs: config.yaml."""

import os
from functools import partial
from pathlib import Path

from snakemake.exceptions import WorkflowError

from rac import artifacts, matrix
from rac import rules as asked
from rac import config as configuration
from rac.errors import RacError
from rac.fingerprint import stage

files = [*filter(os.path.exists, ["config.yaml", *workflow.configfiles])]
try:
    for file in files:
        configuration.read(Path(file))
except RacError as error:
    raise WorkflowError(str(error)) from None


configfile: "config.yaml"


if workflow.remote_exec:  # a job of a cluster has what its run started with
    config = artifacts.read_json("results/.config.json")

try:
    settings = configuration.validate(config, *map(asked.from_here, files))
    asked.check(settings)
except RacError as error:
    raise WorkflowError(str(error)) from None

spec = partial(asked.spec, settings)
ask = partial(asked.ask, settings)
memory = partial(asked.memory, settings)
minutes = partial(asked.minutes, settings)
any_of = asked.any_of


wildcard_constraints:
    model=any_of(settings.models),
    dataset=any_of(settings.datasets),
    source=any_of(settings.sources),
    thoughts=any_of(settings.sources),
    text=any_of(settings.sources),
    calibration=any_of(["none", *settings.calibrations]),
    variant=any_of(["dense", *settings.variant_cells()]),
    eval=any_of(settings.evals),
    workload=any_of(settings.workloads),
    shard=r"\d+",


localrules:
    all,
    download,


rule all:
    default_target: True
    input:
        "results/summary.csv",
        "results/report.html",


rule download:
    input:
        matrix.downloads(settings),


include: "rules/dataset.smk"
include: "rules/model.smk"
include: "rules/traces.smk"
include: "rules/sources.smk"
include: "rules/hessians.smk"
include: "rules/compress.smk"
include: "rules/requests.smk"
include: "rules/generate.smk"
include: "rules/score.smk"
include: "rules/diagnostics.smk"
include: "rules/losses.smk"
include: "rules/overlaps.smk"
include: "rules/runtime.smk"
include: "rules/summary.smk"
include: "rules/report.smk"


onstart:
    try:
        artifacts.hold("results/.lock")
        artifacts.write_text("results/.config.json", settings.model_dump_json())
    except RacError as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    asked.show_table("results/summary.txt", "results/.config.json")


onerror:
    asked.show_failures(settings)
