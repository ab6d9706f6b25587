"""A run's artefacts, made up: what the stages before `summary` would have written."""

import itertools
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rac import overlaps
from rac.artifacts import read_json, write_jsonl, write_text
from rac.evaluate.score import summarise
from rac.provenance import RECORDS, hashes, write_record
from rac.report.page import report
from rac.report.summary import summarize

DENSE = {"calibration": "none", "variant": "dense"}


def cell(
    calibration,
    variant,
    correct,
    solver="sparsegpt",
    pattern="unstructured 0.5",
    sparsity=0.5,
    **more,
):
    """A compressed cell: its names and, a problem, whether it is answered right."""
    names = {"calibration": calibration, "variant": variant, "solver": solver, "pattern": pattern}
    return names | {"sparsity_asked": sparsity, "correct": correct} | more


def dense(correct, **more):
    """The dense cell."""
    none = {"solver": "none", "pattern": "", "sparsity_asked": None}
    return DENSE | none | {"correct": correct} | more


def of_rows(file: Path) -> dict:
    """What the record of a file of rows says of it."""
    return hashes(file.parent, file.name)


def rewrite(file: Path, rows: list[dict]) -> None:
    """Write other rows, and their hash into their record."""
    write_jsonl(file, rows)
    record = file.with_name(RECORDS[file.name])
    write_record(record, read_json(record) | of_rows(file))


def write_run(
    root: Path, cells: list[dict], model: str = "tiny", name: str = "sums"
) -> dict[str, list]:
    """Write the artefacts of `cells`, and say where they are as `rac.matrix` would.

    A cell's optional keys: tokens, finished, texts (a problem), errors (decode, prompt), losses
    (thoughts, text), layers (a list of them), runtime.
    """
    kinds = ("cells", "diagnostics", "losses", "generations", "sources", "overlaps")
    run: dict[str, list] = {kind: [] for kind in kinds}
    model_json = root / f"resources/models/{model}/model.json"
    sizes = {"parameters": 1000, "nonzero_parameters": 1000, "bytes_on_disk": 4000}
    write_record(model_json, {"weights_sha256": f"{model}-sha"} | sizes)
    data = root / "resources/datasets/problems/data.jsonl"
    requests = root / f"results/{model}/requests/{name}/requests.jsonl.zst"
    count = len(cells[0]["correct"])
    write_jsonl(
        data, [{"id": f"p{i}", "problem": f"What is {i}?", "answer": str(i)} for i in range(count)]
    )
    write_jsonl(
        requests, [{"doc_id": i, "id": f"p{i}", "token_ids": [1] * 10} for i in range(count)]
    )
    write_record(data.with_name("meta.json"), {"rows": count} | of_rows(data))
    write_record(requests.with_name("requests.json"), of_rows(requests))
    overlapping: dict[str, list[str]] = {}
    for given in cells:
        folder = root / f"results/{model}/{given['calibration']}/{given['variant']}"
        compressed = given["variant"] != "dense"
        names = {"model": model} | {key: given[key] for key in ("calibration", "variant")}
        tokens = given.get("tokens", [100] * count)
        finished = given.get("finished", [True] * count)
        texts = given.get("texts", ["one and one</think>\nThe answer is \\boxed{2}."] * count)
        scores = [
            {"doc_id": i, "id": f"p{i}", "sample": 0, "correct": bool(right)}
            | {
                "reason": "exact" if right else "different",
                "finished": finished[i],
                "tokens": tokens[i],
                "looping": False,
                "answer": "2",
                "right_when_cut_at": [],
            }
            for i, right in enumerate(given["correct"])
        ]
        paths: dict[str, Any] = {
            "scores": folder / name / "scores.jsonl.zst",
            "metrics": folder / name / "metrics.json",
            "generation": folder / name / "generation.json",
            "compression": folder / "checkpoint/compression.json" if compressed else None,
            "diagnostics": folder / "diagnostics.json" if "errors" in given else None,
            "losses": folder / "losses.json" if "errors" in given else None,
            "runtime": folder / "runtime/short.json" if "runtime" in given else None,
        }
        write_jsonl(paths["scores"], scores)
        write_record(paths["metrics"], summarise(scores, 448) | of_rows(paths["scores"]))
        generations = folder / name / "generations.jsonl.zst"
        write_jsonl(generations, [{**row, "text": texts[i]} for i, row in enumerate(scores)])
        write_record(
            paths["generation"],
            {"seconds": 2.5, "tokens": sum(tokens), "tokens_per_second": sum(tokens) / 2.5}
            | of_rows(generations),
        )
        if compressed:
            write_record(
                paths["compression"],
                {
                    "sparsity": given["sparsity_asked"],
                    "relative_error": given.get("layer_error"),
                    "calibration_tokens": given.get(
                        "calibration_tokens", {"text": 600, "more": 400}
                    ),
                    "parameters": 1000,
                    "nonzero_parameters": 500,
                    "bytes_on_disk": 4000,
                    "dense_sha256": f"{model}-sha",
                    "seconds": 1.5,
                },
            )
        if "errors" in given:
            decode, prompt = given["errors"]
            layers = given.get("layers", [(0, "q_proj", 1.0), (1, "q_proj", 1.0)])
            losses = given.get("losses", (1.0, 3.0))
            write_record(
                paths["diagnostics"],
                {
                    "layers": [
                        {"name": f"layers.{block}.{projection}", "projection": projection}
                        | {"block": block, "error_decode": decode * by, "error_prompt": prompt * by}
                        for block, projection, by in layers
                    ],
                    "error_decode": decode,
                    "error_prompt": prompt,
                },
            )
            tokens = folder / "losses.tokens.jsonl.zst"
            by_place = [[prompt] * 10 + [decode * (1 + i / 10) for i in range(20)]] * 3
            rows = [{"prompt_length": 10, "errors": row} for row in by_place]
            write_jsonl(tokens, rows if compressed else [])
            write_record(
                paths["losses"],
                {
                    "per_sequence": {  # of four and of six tokens
                        role: [[4 * loss, 0.4 * loss, 4], [6 * loss, 0.6 * loss, 6]]
                        for role, loss in zip(("thoughts", "text"), losses, strict=True)
                    },
                    "losses": {
                        role: {
                            "source": role,
                            "tokens": 10,
                            "sequences": 2,
                            "loss": loss,
                            "loss_se": 0.01,
                            "kl": loss / 10,
                            "kl_se": 0.001,
                        }
                        for role, loss in zip(("thoughts", "text"), losses, strict=True)
                    },
                }
                | of_rows(tokens),
            )
            run["diagnostics"].append(names | {"path": str(paths["diagnostics"])})
            run["losses"].append(names | {"tokens": str(tokens)})
            if compressed:
                overlapping.setdefault(given["variant"], []).append(given["calibration"])
        if "runtime" in given:
            write_record(paths["runtime"], given["runtime"])
        asked = {key: given[key] for key in ("solver", "pattern", "sparsity_asked")}
        located = {key: path and str(path) for key, path in paths.items()}
        dense_scores = root / f"results/{model}/none/dense/{name}/scores.jsonl.zst"
        run["cells"].append(
            names
            | asked
            | located
            | {"dense": not compressed, "eval": name, "model_json": str(model_json)}
            | {"dense_scores": str(dense_scores) if compressed else None}
        )
        run["generations"].append(
            names
            | {"eval": name, "generations": str(generations), "scores": located["scores"]}
            | {"requests": str(requests), "problems": str(data)}
        )
    for variant, calibrations in overlapping.items():
        path = root / f"results/{model}/overlaps/{variant}.csv"
        rows = [
            f"{i},layers.{i}.q_proj,{i},q_proj,{other},{baseline},0.{4 + i},0.{6 + i}"
            for baseline, other in itertools.combinations(calibrations, 2)
            for i in range(2)
        ]
        write_text(path, "\n".join([",".join(overlaps.COLUMNS), *rows]) + "\n")
        write_record(path.with_suffix(".json"), of_rows(path))
        run["overlaps"].append({"model": model, "variant": variant, "path": str(path)})
    index = root / f"results/{model}/hessians/thoughts/index.json"
    write_record(
        index, {"kind": "traces", "parts": {"prompt": {"tokens": 250}, "decode": {"tokens": 750}}}
    )
    run["sources"].append({"model": model, "source": "thoughts", "index": str(index)})
    return run


def write_page(run, root, provenance=None, output=None, **more) -> Path:
    """The table and then the page of a run of `write_run`."""
    summary = root / "results/summary.csv"
    beside = [summary.with_name(name) for name in ("comparisons.csv", "budgets.csv")]
    summarize(run["cells"], "try", "config-sha", "0.1+code", summary)
    kinds = ("diagnostics", "losses", "generations", "sources", "overlaps")
    others = (run[kind] for kind in kinds)
    output = output or root / "results/report.html"
    report(
        summary,
        *beside,
        *others,
        more.pop("config", {}),
        {"page": {}} | (provenance or {}),
        output,
        **more,
    )
    return output


@pytest.fixture(scope="session")
def made():
    """How to make artefacts: `made.dense`, `made.cell`, `made.run`, `made.rewrite`, `made.page`.

    `made.mixed` is the configuration of calibrations by c4, by thoughts, and by both.
    """

    class Made:
        mixed: ClassVar = {
            "sources": {"c4": {"kind": "text"}, "traces": {"kind": "traces"}},
            "calibrations": {
                "c4": {"sum": {"c4": 1}},
                "mix": {"share": {"c4": 0.5, "traces": 0.5}},
                "rac": {"sum": {"traces": 1}},
            },
        }
        dense = staticmethod(dense)
        cell = staticmethod(cell)
        run = staticmethod(write_run)
        page = staticmethod(write_page)
        rewrite = staticmethod(rewrite)

    return Made
