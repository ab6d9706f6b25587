"""Stage `hessians`: accumulate H = Σ x xᵀ, store it, and combine stored ones into a calibration.

Sums over tokens add, so every source's Hessians are stored once, in parts (prompt, decode, text),
and a calibration is a weighted sum of parts: no forward pass for a new mixture.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rac import linear, sources
from rac.artifacts import atomic_folder, read_json, sha256_file, write_json
from rac.config import Calibration, source_parts
from rac.errors import RacError
from rac.models import checkpoint
from rac.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# ---- accumulate and store


def accumulate(
    model: Path, sequences: Path, dtype: str, output: Path, batch_tokens: int = 16384
) -> None:
    """Run the dense model once over a source and store the Hessian of every group of layers.

    The Hessians of all groups and parts are in memory at once: 4 × columns² bytes each.

    Args:
        model: folder of the dense model, made by the `model` stage.
        sequences: the source's sequences.safetensors.
        dtype: the model's (float32, bfloat16, float16); Hessians are float32.
        output: folder to write: layer-000.safetensors … (one a block) and index.json.
        batch_tokens: how many tokens, padding included, are run together.

    Raises:
        RacError: an input is missing, damaged or of another model, or an activation is not finite.
    """
    identity, metadata = checkpoint.identity(model), sources.read_metadata(sequences)
    if metadata["model"] != identity:
        raise RacError(f"{sequences} was made for another model than {model}; delete it")
    network = checkpoint.load_model(model, dtype)
    groups = linear.groups(network)
    parts = source_parts(metadata["kind"])
    read = sources.read(sequences)
    with progress("hessians", sum(len(sequence.token_ids) for sequence in read)) as advance:
        sums, tokens = sum_outer_products(network, groups, read, parts, batch_tokens, advance)
    for (name, _), total in sums.items():
        if not total.diagonal().isfinite().all():
            raise RacError(f"{name} of {model} gets activations that are not finite in {dtype}")

    with atomic_folder(output) as folder:
        hashes = {}
        for block in sorted({group["block"] for group in groups}):
            file = folder / _file_of(block)
            members = [group["name"] for group in groups if group["block"] == block]
            save_file(
                {f"{name}/{part}": sums[name, part].cpu() for name in members for part in parts},
                file,
            )
            hashes[file.name] = sha256_file(file)
        index = {
            "model": identity,
            "sequences": sha256_file(sequences),
            "kind": metadata["kind"],
            "dtype": dtype,
            "parts": {part: {"tokens": tokens[part]} for part in parts},
            "groups": [{**group, "file": _file_of(group["block"])} for group in groups],
            "sha256": hashes,
        }
        write_json(folder / "index.json", index)


@torch.inference_mode()
def sum_outer_products(
    network: "PreTrainedModel",
    groups: list[dict],
    sequences: list[sources.Sequence],
    parts: tuple[str, ...],
    batch_tokens: int,
    advance: Callable[[int], None] = lambda tokens: None,
) -> tuple[dict[tuple[str, str], torch.Tensor], dict[str, int]]:
    """Σ x xᵀ over the tokens of each part, for the input x of each group.

    Sequences are padded on the right: with causal attention no real token sees the padding, and the
    padding's own activations are left out of the sums.

    Args:
        network: a causal language model.
        groups: of `rac.linear.groups`.
        sequences: token ids and prompt lengths.
        parts: one part for all tokens, or prompt and decode.
        batch_tokens: tokens a batch, padding included.
        advance: told the tokens of each batch when it is done.

    Returns:
        Sums, float32 [columns, columns] by (group name, part), and the tokens of each part.
    """
    sums = {
        (group["name"], part): torch.zeros(
            group["columns"], group["columns"], device=network.device
        )
        for group in groups
        for part in parts
    }
    tokens = dict.fromkeys(parts, 0)
    rows: dict[str, torch.Tensor] = {}  # of the running batch: the flat positions of each part

    def add(name):
        def hook(layer, args, kwargs):
            x = (args[0] if args else kwargs["input"]).flatten(0, -2)
            for part, positions in rows.items():
                selected = x[positions].float()
                sums[name, part].addmm_(selected.T, selected)

        return hook

    handles = [
        network.get_submodule(group["name"]).register_forward_pre_hook(
            add(group["name"]), with_kwargs=True
        )
        for group in groups
    ]
    try:
        for batch in batches([len(sequence.token_ids) for sequence in sequences], batch_tokens):
            chosen = [sequences[i] for i in batch]
            token_ids = torch.nn.utils.rnn.pad_sequence(
                [sequence.token_ids for sequence in chosen], batch_first=True
            )
            for part, mask in zip(
                parts, _masks(chosen, token_ids.shape[1], len(parts)), strict=True
            ):
                rows[part] = mask.flatten().nonzero().squeeze(1).to(network.device)
                tokens[part] += len(rows[part])
            network.base_model(input_ids=token_ids.to(network.device), use_cache=False)
            advance(sum(len(sequence.token_ids) for sequence in chosen))
    finally:
        for handle in handles:
            handle.remove()
    return sums, tokens


def batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences to run together: of like lengths, the longest first.

    A batch has at most `batch_tokens` tokens, padding included; a longer sequence is one by itself.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _masks(sequences: list[sources.Sequence], width: int, parts: int) -> list[torch.Tensor]:
    """One mask a part, [sequences, width]: all real tokens, or those of the prompt and the rest."""
    position = torch.arange(width)
    real = position < torch.tensor([len(sequence.token_ids) for sequence in sequences])[:, None]
    if parts == 1:
        return [real]
    prompt = position < torch.tensor([sequence.prompt_length for sequence in sequences])[:, None]
    return [real & prompt, real & ~prompt]


def _file_of(block: int) -> str:
    return f"layer-{block:03d}.safetensors"


# ---- read and combine


class Term(NamedTuple):
    """One part of a source in a calibration's weighted sum."""

    folder: Path
    header: dict  # its index.json
    part: str
    weight: float
    tokens: int


def terms(calibration: Calibration, folders: dict[str, Path], model: str) -> dict[str, list[Term]]:
    """What a calibration adds up: key (`source` or `source.part`) → parts with their weights.

    By `sum`, stored sums are added with the weights given. By `share`, each key's mean Σ x xᵀ / n
    is weighted with its share and multiplied by the tokens of all keys together, so that shares are
    shares of tokens at an equal total.

    Args:
        calibration: its definition.
        folders: source → folder of its stored Hessians.
        model: weights_sha256 of the model that they must be of.

    Raises:
        RacError: a source or part is missing, damaged, of another model or over other layers.
    """
    weights = calibration.sum or calibration.share or {}
    found = {}
    for key, weight in weights.items():
        source, part = (key, None) if key in folders else key.rpartition(".")[::2]
        if source not in folders:
            raise RacError(
                f"no Hessians were given for '{key}'; given: {', '.join(folders) or 'none'}"
            )
        index = _read_index(folders[source], model)
        if part is not None and part not in index["parts"]:
            raise RacError(
                f"'{key}': {folders[source]} holds {', '.join(index['parts'])} and no '{part}'"
            )
        found[key] = [
            Term(folders[source], index, name, weight, index["parts"][name]["tokens"])
            for name in ([part] if part else index["parts"])
        ]
    first = next(iter(found.values()))[0]
    for term in (term for of_key in found.values() for term in of_key):
        if term.header["groups"] != first.header["groups"]:
            raise RacError(f"{term.folder} and {first.folder} hold Hessians of different layers")
    if calibration.share:
        tokens = {key: sum(term.tokens for term in of_key) for key, of_key in found.items()}
        for key, of_key in found.items():
            if not tokens[key]:
                raise RacError(f"'{key}' has no tokens to take a share of")
            scale = sum(tokens.values()) / tokens[key]
            found[key] = [term._replace(weight=term.weight * scale) for term in of_key]
    return found


def combine(of_calibration: list[Term], block: int) -> dict[str, torch.Tensor]:
    """The calibration's Hessians of one block: group name → float32 [columns, columns].

    Raises:
        RacError: a file is missing, or its hash or a shape is not what its index says.
    """
    combined: dict[str, torch.Tensor] = {}
    verified = set()
    for term in of_calibration:
        file = term.folder / _file_of(block)
        if file not in verified and _hash(file) != term.header["sha256"].get(file.name):
            raise RacError(
                f"{file} is not the file that its index.json was written for; delete the folder"
            )
        verified.add(file)
        try:
            with safe_open(file, "pt") as stored:
                for group in term.header["groups"]:
                    if group["block"] == block:
                        hessian = stored.get_tensor(f"{group['name']}/{term.part}")
                        if hessian.shape != (group["columns"], group["columns"]):
                            raise RacError(
                                f"{file}: {group['name']} is {list(hessian.shape)}, not "
                                f"[{group['columns']}, {group['columns']}]"
                            )
                        hessian *= term.weight
                        if group["name"] in combined:
                            combined[group["name"]] += hessian
                        else:
                            combined[group["name"]] = hessian
        except SafetensorError as error:
            raise RacError(f"{file} is damaged: {error}; delete the folder") from None
    return combined


def _hash(file: Path) -> str:
    try:
        return sha256_file(file)
    except FileNotFoundError:
        raise RacError(f"{file} is missing; delete the folder to have it made again") from None


def _read_index(folder: Path, model: str) -> dict:
    file = Path(folder) / "index.json"
    index = read_json(file)
    if not isinstance(index, dict) or not {"model", "parts", "groups", "sha256"} <= index.keys():
        raise RacError(f"{file} is no index of Hessians; delete the folder to have it made again")
    if index["model"] != model:
        raise RacError(f"{file}: these Hessians are of another model; delete the folder")
    return index
