"""Stage `diagnostics`: what compression did, on data that no calibration saw."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from rac import blocks, hessians, sources
from rac.artifacts import read_json, sha256_file, write_jsonl
from rac.definitions import Calibration
from rac.divergences import kl_divergence
from rac.engines import NOT_NUMBERS
from rac.errors import RacError
from rac.linear import decoder_groups
from rac.models import checkpoint as checkpoints
from rac.models import weights
from rac.progress import progress
from rac.provenance import hashes, provenance, write_record
from rac.ratio import ratio
from rac.solvers import relative_error
from rac.token_errors import token_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS = 2**27  # numbers of logits in memory at once


def diagnose(
    checkpoint: Path,
    dense: Path,
    stored: Path,
    thoughts: Path,
    text: Path,
    dtype: str,
    output: Path,
    tokens: Path,
) -> None:
    """Measure a checkpoint's layer errors and losses on held-out data, and write diagnostics.json.

    Beside it, tokens.jsonl.zst has a row a sequence of thoughts: the prompt's length, and the relative
    error of the layers at every token. It is empty for the dense model and for narrower ones.

    Args:
        checkpoint: the folder to measure; the dense model's own for the dense cell.
        dense: the dense model's folder.
        stored: folder of the Hessians of the held-out traces.
        thoughts: sequences of the held-out traces; the loss is over decode tokens.
        text: sequences of the held-out text; the loss is over all tokens but a sequence's first.
        dtype: the model's.
        output: diagnostics.json.
        tokens: tokens.jsonl.zst.

    Raises:
        RacError: an input is missing, damaged or of another model, or there is nothing to predict.
    """
    identity = checkpoints.identity(dense)
    for file in (thoughts, text):
        if sources.read_metadata(file)["model"] != identity:
            raise RacError(f"{file} was made for another model than {dense}; delete it")
    network = checkpoints.load_model(checkpoint, dtype)
    layers = layer_errors(network, dense, stored, identity)
    is_dense = checkpoint.resolve() == dense.resolve()
    reference = None if is_dense else checkpoints.load_model(dense, dtype)
    per_sequence, losses = {}, {}
    files = {"thoughts": thoughts, "text": text}
    for role, file in files.items():
        sequences = sources.read(file)
        total = sum(len(sequence.token_ids) for sequence in sequences)
        with progress(f"losses of {role}", total) as update:
            scored = score_sequences(network, reference, sequences, role == "thoughts", update)
        if not scored:
            raise RacError(f"{file} holds no token to predict; give its source more tokens")
        loss, loss_se = ratio([(one.loss, one.tokens) for one in scored])
        kl, kl_se = ratio([(one.kl, one.tokens) for one in scored])
        per_sequence[role] = scored
        losses[role] = {
            "source": file.parent.name,
            "tokens": sum(one.tokens for one in scored),
            "sequences": len(scored),
            **{"loss": loss, "loss_se": loss_se, "kl": kl, "kl_se": kl_se},
        }
    means = {
        key: sum(layer[key] for layer in layers) / len(layers) if layers else None
        for key in ("error_prompt", "error_decode")
    }
    rows = _token_rows(network, reference, dense, sources.read(thoughts)) if layers else []
    write_jsonl(tokens, rows)
    made = provenance(
        "diagnostics",
        model=identity,
        checkpoint=checkpoints.identity(checkpoint),
        hessians=sha256_file(stored / "index.json"),
        sequences={role: sha256_file(file) for role, file in files.items()},
        dtype=dtype,
    )
    found = {"layers": layers, **means, "losses": losses, "per_sequence": per_sequence}
    write_record(output, found | hashes(tokens.parent, tokens.name) | made)


def _token_rows(
    network: "PreTrainedModel",
    reference: "PreTrainedModel | None",
    dense: Path,
    sequences: list[sources.Sequence],
) -> list[dict]:
    """Rows of tokens.jsonl.zst, errors to four digits."""
    if reference is None:
        return []
    groups = decoder_groups(read_json(dense / "model.json")["linear_groups"])
    located = weights.locate(dense)
    norms = {name: group["norm"] for group in groups for name in group["layers"]}

    def lost(name: str) -> torch.Tensor:
        new = network.get_parameter(f"{name}.weight").detach().float().cpu()
        return _read(located, f"{name}.weight") - new / _smoothed(network, located, norms[name])

    total = sum(len(sequence.token_ids) for sequence in sequences)
    with progress("errors by token", total) as update:
        errors = token_errors(reference, lost, list(norms), sequences, update)
    return [
        {
            "prompt_length": sequence.prompt_length,
            "errors": [float(f"{error:.4g}") for error in of_sequence.tolist()],
        }
        for sequence, of_sequence in zip(sequences, errors, strict=True)
    ]


def layer_errors(
    network: "PreTrainedModel", dense: Path, stored: Path, identity: str
) -> list[dict]:
    """Relative errors of every linear layer on the held-out prompt and decode Hessians.

    None for a narrower model: its layers have other inputs than the dense ones. Weights of smoothed inputs
    are taken back to the dense model's.

    Raises:
        RacError: an input is missing, damaged or of another model.
    """
    groups = decoder_groups(read_json(dense / "model.json")["linear_groups"])
    terms = {
        part: hessians.terms(Calibration(sum={f"heldout.{part}": 1}), {"heldout": stored}, identity)
        for part in ("prompt", "decode")
    }
    located, layers = weights.locate(dense), []
    for block, of_block in itertools.groupby(groups, key=lambda group: group["block"]):
        combined = {
            part: hessians.combine(of_part[f"heldout.{part}"], block)
            for part, of_part in terms.items()
        }
        for group in of_block:
            smoothed = _smoothed(network, located, group["norm"])
            for name in group["layers"]:
                old = _read(located, f"{name}.weight")
                new = network.get_parameter(f"{name}.weight").detach().float().cpu()
                if new.shape != old.shape:
                    return []
                new = new / smoothed
                errors = {
                    f"error_{part}": relative_error(old, new, of_part[group["name"]])
                    for part, of_part in combined.items()
                }
                projection = name.rpartition(".")[2]
                layers.append({"name": name, "projection": projection, "block": block} | errors)
    return layers


def _smoothed(
    network: "PreTrainedModel", located: dict[str, Path], norm: str | None
) -> torch.Tensor:
    """By how much the inputs that a norm makes are smaller than the dense model's, column by column.

    SmoothQuant divides them, and multiplies the weights that read them.
    """
    if norm is None:
        return torch.ones(1)
    old = _read(located, f"{norm}.weight")
    new = network.get_parameter(f"{norm}.weight").detach().float().cpu()
    return torch.where((old == 0) | (new == 0), 1, old / new)


def _read(located: dict[str, Path], name: str) -> torch.Tensor:
    if name not in located:
        raise RacError(f"no file of {next(iter(located.values())).parent} holds {name}")
    return weights.read(located[name], name).float()


class Scored(NamedTuple):
    """A sequence under a checkpoint: sums over its predicted tokens, in nats."""

    loss: float  # −log p of the tokens that are there
    kl: float  # KL(dense ‖ checkpoint) of the distributions that they are drawn from
    tokens: int


@torch.inference_mode()
def score_sequences(
    network: "PreTrainedModel",
    reference: "PreTrainedModel | None",
    sequences: list[sources.Sequence],
    skip_prompt: bool,
    update: Callable[[int], object] = lambda tokens: None,
) -> list[Scored]:
    """Losses of every sequence that has a token to predict, and its divergence from the dense model.

    Sequences are padded on the right, which causal attention does not see.

    Args:
        network: a causal language model.
        reference: the dense one; None if that is `network`, whose divergence is 0.
        sequences: token ids and prompt lengths.
        skip_prompt: predict decode tokens only; otherwise all but the first token.
        update: called with the number of tokens of each batch.

    Raises:
        RacError: logits are not numbers; names the sequence.
    """
    vocabulary = network.config.get_text_config().vocab_size
    scored: dict[int, Scored] = {}
    lengths = [len(sequence.token_ids) for sequence in sequences]
    for batch in blocks.batches(lengths, max(LOGITS // vocabulary, 1)):
        chosen = [sequences[i] for i in batch]
        found = _score_batch(network, reference, chosen, skip_prompt)
        scored |= {i: one for i, one in zip(batch, found, strict=True) if one}
        update(sum(lengths[i] for i in batch))
        for i in (i for i, one in scored.items() if math.isnan(one.loss)):
            raise RacError(f"sequence {i}: {NOT_NUMBERS}")
    return [scored[i] for i in sorted(scored)]


def _score_batch(
    network: "PreTrainedModel",
    reference: "PreTrainedModel | None",
    chosen: list[sources.Sequence],
    skip_prompt: bool,
) -> list[Scored | None]:
    """What `score_sequences` says of a batch; None where there is nothing to predict."""
    token_ids = pad_sequence([sequence.token_ids for sequence in chosen], batch_first=True)
    given = {"input_ids": token_ids.to(network.device), "use_cache": False}
    logits = network(**given).logits
    wanted = reference(**given).logits if reference else [None] * len(chosen)
    found: list[Scored | None] = []
    for sequence, row, dense in zip(chosen, logits, wanted, strict=True):
        start = max(sequence.prompt_length if skip_prompt else 1, 1)
        targets = sequence.token_ids[start:].to(row.device)
        where = slice(start - 1, len(sequence.token_ids) - 1)
        if not len(targets):
            found.append(None)
            continue
        loss = cross_entropy(row[where].float(), targets, reduction="none").double().sum()
        kl = kl_divergence(dense[where], row[where]) if dense is not None else 0.0
        found.append(Scored(loss.item(), kl * len(targets), len(targets)))
    return found
