"""Stage `overlaps`: how alike calibrations choose the weights that stay."""

import itertools
from pathlib import Path

import torch

from rac import hessians, linear
from rac.artifacts import read_json, sha256_file, write_text
from rac.definitions import Calibration
from rac.models import checkpoint as checkpoints
from rac.models import weights
from rac.provenance import hashes, provenance, write_record

SAMPLE = 2**20  # weights of a layer, at most, that are ranked
COLUMNS = (
    *("layer", "name", "block", "projection", "calibration", "baseline"),
    *("jaccard", "rank_correlation"),
)


def write_overlaps(
    model: Path,
    checkpoints_of: dict[str, str],
    calibrations: dict[str, dict],
    sources: dict[str, str],
    output: Path,
) -> None:
    """Compare every two calibrations of a variant, layer by layer, and write a CSV file, with its record.

    A weight is kept if it is not zero. Its importance is Wanda's |w| ‖x‖, of the dense weight and the
    calibration's Hessian.

    Args:
        model: the dense model's folder.
        checkpoints_of: calibration → folder of its checkpoint; all of one variant.
        calibrations: calibration → its definition.
        sources: source → folder of its stored Hessians.
        output: the file to write; its record is beside it, as .json.

    Raises:
        RacError: an input is missing, damaged or of another model.
    """
    identity = checkpoints.identity(model)
    groups = linear.decoder_groups(read_json(model / "model.json")["linear_groups"])
    folders = {name: Path(folder) for name, folder in sources.items()}
    terms = {}
    for name, definition in calibrations.items():
        calibration = Calibration.model_validate(definition)
        by_key = hessians.terms(calibration, folders, identity)
        terms[name] = list(itertools.chain.from_iterable(by_key.values()))
    for folder in (model, *map(Path, checkpoints_of.values())):
        checkpoints.check(folder)
    dense = weights.locate(model)
    located = {name: weights.locate(Path(folder)) for name, folder in checkpoints_of.items()}
    lines, number = [",".join(COLUMNS)], itertools.count()
    by_block = linear.by_block(groups)
    for block in hessians.checked(itertools.chain.from_iterable(terms.values()), by_block):
        combined = {name: hessians.combine(of_one, block) for name, of_one in terms.items()}
        for group in by_block[block]:
            norms = {
                name: of_one[group["name"]].diagonal().sqrt() for name, of_one in combined.items()
            }
            for layer in group["layers"]:
                key = f"{layer}.weight"
                size = weights.read(dense[key], key).float().abs()
                kept = {name: weights.read(of[key], key) != 0 for name, of in located.items()}
                ranks = {name: ranked(size * norm) for name, norm in norms.items()}
                place = (next(number), layer, block, layer.rpartition(".")[2])
                for baseline, other in itertools.combinations(kept, 2):
                    values = (
                        jaccard(kept[baseline], kept[other]),
                        correlation(ranks[baseline], ranks[other]),
                    )
                    row = (*place, other, baseline, *(f"{value:.6g}" for value in values))
                    lines.append(",".join(map(str, row)))
    write_text(output, "\n".join(lines) + "\n")
    made = provenance(
        "overlaps",
        model=identity,
        calibrations=calibrations,
        checkpoints={name: checkpoints.identity(Path(of)) for name, of in checkpoints_of.items()},
        hessians={name: sha256_file(folder / "index.json") for name, folder in folders.items()},
    )
    write_record(output.with_suffix(".json"), hashes(output.parent, output.name) | made)


def jaccard(a: torch.Tensor, b: torch.Tensor) -> float:
    """|A ∩ B| / |A ∪ B| of two sets given as boolean tensors; 1 if both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def ranked(scores: torch.Tensor) -> torch.Tensor:
    """The ranks of scores, ties in the order of their places; of more than SAMPLE an even choice."""
    flat = scores.flatten()
    flat = flat[:: max(1, -(-len(flat) // SAMPLE))]
    ranks = torch.empty(len(flat), dtype=torch.float64)
    ranks[flat.argsort(stable=True)] = torch.arange(len(flat), dtype=torch.float64)
    return ranks


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Pearson's correlation; of ranks, Spearman's."""
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
