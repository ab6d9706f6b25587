"""Stage `losses`: how a checkpoint reads what no calibration saw, beside the dense model; forward passes."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from rac import batching, sources
from rac.artifacts import read_json, sha256_file, write_jsonl
from rac.divergences import kl_divergence
from rac.engines import NOT_NUMBERS, NotNumbers
from rac.errors import RacError
from rac.linear import decoder_groups
from rac.models import checkpoint as checkpoints
from rac.models import layer_weights
from rac.progress import progress
from rac.provenance import hashes, provenance, write_record
from rac.ratio import ratio
from rac.token_errors import token_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS = 2**27  # numbers of logits in memory at once


def measure_losses(
    checkpoint: Path,
    dense: Path,
    thoughts: Path,
    text: Path,
    dtype: str,
    output: Path,
    tokens: Path,
) -> None:
    """Measure a checkpoint's losses and divergences on held-out data, and write losses.json.

    Beside it, tokens.jsonl.zst has a row a sequence of thoughts: the prompt's length, and the relative
    error of the layers at every token. It is empty for the dense model and for narrower ones. Where a GPU
    has no memory for a batch, it and those after it are halved: `halvings` says how often.

    Args:
        checkpoint: the folder to measure; the dense model's own for the dense cell.
        dense: the dense model's folder.
        thoughts: sequences of the held-out traces; the loss is over decode tokens.
        text: sequences of the held-out text; the loss is over all tokens but a sequence's first.
        dtype: the model's.
        output: losses.json.
        tokens: tokens.jsonl.zst.

    Raises:
        RacError: an input is missing, damaged or of another model, there is nothing to predict, or memory is
            short for a sequence by itself.
    """
    identity = checkpoints.identity(dense)
    for file in (thoughts, text):
        sources.metadata_for(file, dense)
    network = checkpoints.load_model(checkpoint, dtype)
    is_dense = checkpoint.resolve() == dense.resolve()
    reference = None if is_dense else checkpoints.load_model(dense, dtype)
    per_sequence, losses = {}, {}
    files = {"thoughts": thoughts, "text": text}
    read = {role: sources.read(file) for role, file in files.items()}
    halvings = 0
    for role, sequences in read.items():
        total = sum(len(sequence.token_ids) for sequence in sequences)
        with progress(f"losses of {role}", total) as update:
            scored, halved = score_sequences(
                network, reference, sequences, role == "thoughts", update
            )
        if not scored:
            raise RacError(f"{files[role]} holds no token to predict; give its source more tokens")
        halvings = max(halvings, halved)
        loss, loss_se = ratio([(one.loss, one.tokens) for one in scored])
        kl, kl_se = ratio([(one.kl, one.tokens) for one in scored])
        per_sequence[role] = scored
        losses[role] = {
            "source": files[role].parent.name,
            "tokens": sum(one.tokens for one in scored),
            "sequences": len(scored),
            **{"loss": loss, "loss_se": loss_se, "kl": kl, "kl_se": kl_se},
        }
    rows, halved = _token_rows(network, reference, dense, read["thoughts"])
    write_jsonl(tokens, rows)
    made = provenance(
        "losses",
        model=identity,
        checkpoint=checkpoints.identity(checkpoint),
        sequences={role: sha256_file(file) for role, file in files.items()},
        dtype=dtype,
    )
    found = {"losses": losses, "per_sequence": per_sequence, "halvings": max(halvings, halved)}
    write_record(output, found | hashes(tokens.parent, tokens.name) | made)


def _token_rows(
    network: "PreTrainedModel",
    reference: "PreTrainedModel | None",
    dense: Path,
    sequences: list[sources.Sequence],
) -> tuple[list[dict], int]:
    """Rows of tokens.jsonl.zst, errors to four digits, and how often a batch was halved."""
    groups = decoder_groups(read_json(dense / "model.json")["linear_groups"])
    norms = {name: group["norm"] for group in groups for name in group["layers"]}
    if reference is None or _is_narrower(network, reference, norms):
        return [], 0
    before, after = layer_weights.of_model(reference), layer_weights.of_model(network)

    def lost(name: str) -> torch.Tensor:
        return before(name) - layer_weights.unsmoothed(after, before, name, norms[name])

    total = sum(len(sequence.token_ids) for sequence in sequences)
    with progress("errors by token", total) as update:
        errors, halvings = token_errors(reference, lost, list(norms), sequences, update)
    rows = [
        {
            "prompt_length": sequence.prompt_length,
            "errors": [float(f"{error:.4g}") for error in of_sequence.tolist()],
        }
        for sequence, of_sequence in zip(sequences, errors, strict=True)
    ]
    return rows, halvings


def _is_narrower(
    network: "PreTrainedModel", reference: "PreTrainedModel", layers: Iterable[str]
) -> bool:
    """Whether a layer has another shape than the dense one: its inputs are others then."""
    return any(
        network.get_parameter(f"{name}.weight").shape
        != reference.get_parameter(f"{name}.weight").shape
        for name in layers
    )


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
) -> tuple[list[Scored], int]:
    """Losses of every sequence that has a token to predict, and its divergence from the dense model.

    Sequences are padded on the right, which causal attention does not see.

    Args:
        network: a causal language model.
        reference: the dense one; None if that is `network`, whose divergence is 0.
        sequences: token ids and prompt lengths.
        skip_prompt: predict decode tokens only; otherwise all but the first token.
        update: called with the number of tokens of each batch.

    Returns:
        The losses, in the order of the sequences; how often a batch was halved, as memory was short.

    Raises:
        RacError: logits are not numbers (names the sequence), or memory is short for a sequence by itself.
    """
    vocabulary = network.config.get_text_config().vocab_size
    scored: dict[int, Scored] = {}
    lengths = [len(sequence.token_ids) for sequence in sequences]

    def run(batch: list[int]) -> dict[int, Scored]:
        chosen = [sequences[i] for i in batch]
        try:
            found = _score_batch(network, reference, chosen, skip_prompt)
        except NotNumbers as error:
            raise RacError(f"sequence {batch[error.index]}: {NOT_NUMBERS}") from None
        update(sum(lengths[i] for i in batch))
        return {i: one for i, one in zip(batch, found, strict=True) if one}

    halvings, most = 0, max(LOGITS // vocabulary, 1)
    for found, halved in batching.run_in_batches(run, lengths, most):
        scored |= found
        halvings = halved
    return [scored[i] for i in sorted(scored)], halvings


def _score_batch(
    network: "PreTrainedModel",
    reference: "PreTrainedModel | None",
    chosen: list[sources.Sequence],
    skip_prompt: bool,
) -> list[Scored | None]:
    """What `score_sequences` says of a batch; None where there is nothing to predict.

    Raises:
        NotNumbers: logits of a sequence, dense or not, are none.
    """
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
        try:
            kl = kl_divergence(dense[where], row[where]) if dense is not None else 0.0
        except ValueError:  # the dense model's logits are not numbers
            raise NotNumbers(len(found)) from None
        if loss.isnan():
            raise NotNumbers(len(found))
        found.append(Scored(loss.item(), kl * len(targets), len(targets)))
    return found
