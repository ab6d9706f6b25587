"""Stage `sources`: token sequences that Hessians are taken over, from text, prompts or traces.

Every source meets its token budget exactly (the last sequence is cut), so that calibrations compare at
equal cost. Sequences are token ids as generated, never decoded and tokenized again.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rac.artifacts import atomic_file, read_jsonl
from rac.definitions import Chat, Source
from rac.errors import RacError
from rac.models import checkpoint
from rac.models.chat import opening, render, token_ids
from rac.provenance import checked_sha256, hashes, provenance, write_record

KEYS = ("token_ids", "lengths", "prompt_lengths")  # of a file of sequences


class Sequence(NamedTuple):
    """Token ids, int64 [length], of which the first `prompt_length` are the prompt."""

    token_ids: torch.Tensor
    prompt_length: int


def cut_to_budget(
    sequences: Iterable[tuple[list[int], int]], tokens: int, name: str
) -> Iterator[Sequence]:
    """Take sequences (token ids, prompt length) in order until `tokens` are taken; cut the last one.

    Raises:
        RacError: there are fewer tokens than the budget.
    """
    left = tokens
    for ids, prompt_length in sequences:
        if left == 0:
            return
        ids = ids[:left]
        left -= len(ids)
        yield Sequence(torch.tensor(ids), min(prompt_length, len(ids)))
    if left:
        raise RacError(
            f"source '{name}' holds {tokens - left} tokens and its budget is {tokens}: "
            "give its dataset more rows, or lower 'tokens'"
        )


def text_windows(
    documents: Iterable[list[int]], window: int, stop: int
) -> Iterator[tuple[list[int], int]]:
    """Join tokenized documents, a stop token after each, and cut them into windows of `window` tokens."""
    stream = itertools.chain.from_iterable([*ids, stop] for ids in documents)
    while ids := list(itertools.islice(stream, window)):
        yield ids, len(ids)


def prompt_ids(problem: dict, source: Source, tokenizer: Any, chat: Chat) -> list[int]:
    """Token ids of the prompt that asks for an answer to `problem`, by the model's chat template."""
    said = source.prompt.replace("{problem}", problem["problem"])
    prompt = render(tokenizer, [{"role": "user", "content": said}], chat)
    return token_ids(tokenizer, prompt)


def write_sequences(
    source: Source,
    name: str,
    model: Path,
    dataset: Path,
    traces: Path | None,
    output: Path,
    other_model: Path | None = None,
    code: str | None = None,
    chat: Chat = Chat(),  # noqa: B008
) -> None:
    """Write the token sequences of a source, and beside them their record, as .json.

    Args:
        source: its definition.
        name: its name, for messages.
        model: the dense model's folder (tokenizer, chat template).
        dataset: the dataset's data.jsonl.
        traces: traces.jsonl.zst for a source of kind `traces`.
        output: the safetensors file: token_ids int32 [tokens], lengths and prompt_lengths int32 [sequences].
        other_model: the folder of the model whose traces they are, if it is another one.
        code: fingerprint of the code, for the record.
        chat: what the model is told beside a problem, where prompts are made here.

    Raises:
        RacError: the budget cannot be met, an input is missing or damaged, or the other model writes other
            token ids.
    """
    sequences: Iterable[tuple[list[int], int]]
    inputs = {
        "dataset": checked_sha256(dataset),
        "traces": checked_sha256(traces) if traces else None,
    }
    if traces is not None:
        of_traces = read_jsonl(traces)
        if other_model is not None:
            _check_vocabulary(model, other_model, name)
        if source.select:
            of_traces = _selected(of_traces, source, read_jsonl(dataset), model)
        sequences = ((row["token_ids"], row["prompt_length"]) for row in of_traces)
    else:
        sequences = _of_rows(source, name, model, read_jsonl(dataset), chat)
    taken = list(cut_to_budget(sequences, source.tokens, name))
    tensors = {
        "token_ids": torch.cat([sequence.token_ids for sequence in taken]).int(),
        "lengths": torch.tensor([len(sequence.token_ids) for sequence in taken]).int(),
        "prompt_lengths": torch.tensor([sequence.prompt_length for sequence in taken]).int(),
    }
    identity = checkpoint.identity(model)
    with atomic_file(output) as temporary:
        save_file(tensors, temporary, metadata(source.kind, identity, tensors))
    made = provenance(
        "sources",
        code,
        source=source.model_dump(mode="json"),
        chat=chat.model_dump(),
        model=identity,
        files=checkpoint.recorded(model),
        **inputs,
        other_model=checkpoint.identity(other_model) if other_model else None,
    )
    counts = {"sequences": len(taken), "tokens": len(tensors["token_ids"])}
    write_record(output.with_suffix(".json"), counts | hashes(output.parent, output.name) | made)


def _of_rows(
    source: Source, name: str, model: Path, rows: list[dict], chat: Chat
) -> Iterator[tuple[list[int], int]]:
    """Token ids and prompt length of each sequence that is made of a dataset's rows."""
    tokenizer, stop = checkpoint.load_tokenizer(model), checkpoint.stop_tokens(model)[0]
    if source.kind == "text":
        texts = (tokenizer.encode(row["text"], add_special_tokens=False) for row in rows)
        yield from text_windows(texts, source.window, stop)
        return
    for row in rows:
        ids = prompt_ids(row, source, tokenizer, chat)
        solved = source.kind == "solutions"
        answer = [*solution_ids(row, source, tokenizer, name), stop] if solved else []
        yield ids + answer, len(ids)


def solution_ids(problem: dict, source: Source, tokenizer: Any, name: str) -> list[int]:
    """Token ids of the dataset's own solution of a problem.

    Raises:
        RacError: the row has no such column.
    """
    if not isinstance(problem.get(source.solution), str):
        raise RacError(
            f"sources.{name}: row {problem['id']} of dataset '{source.dataset}' has no text in column "
            f"'{source.solution}' (it has: {', '.join(problem)}); say which one is meant in 'solution'"
        )
    return tokenizer.encode(problem[source.solution], add_special_tokens=False)


def _check_vocabulary(model: Path, other_model: Path, name: str) -> None:
    """Token ids of another model are taken as they are, so they must mean the same."""
    own, other = map(checkpoint.load_tokenizer, (model, other_model))
    if own.get_vocab() != other.get_vocab():
        raise RacError(
            f"sources.{name}.traces_of: {other_model} has another vocabulary than the model, so its "
            "traces are other tokens"
        )


def _selected(traces: list[dict], source: Source, rows: list[dict], model: Path) -> list[dict]:
    from rac.select import select

    assert source.select
    tokenizer: Any = checkpoint.load_tokenizer(model)

    def said(row: dict) -> str:
        prompt, decoded = (
            tokenizer.decode(ids)
            for ids in (
                row["token_ids"][: row["prompt_length"]],
                row["token_ids"][row["prompt_length"] :],
            )
        )
        return opening(prompt) + decoded

    answers = {row["id"]: row.get("answer", "") for row in rows}  # looked at by some choices alone
    return select(traces, source.select, answers, said)


def metadata(kind: str, model: str, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """What a file of sequences says of itself: one entry, since safetensors shuffles several."""
    return {"source": json.dumps({"kind": kind, "model": model, "sha256": _digest(tensors)})}


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key in KEYS:
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()


def read(path: Path) -> list[Sequence]:
    """The sequences of a file that `write_sequences` wrote.

    Raises:
        RacError: missing or damaged, with the path.
    """
    with _opened(path) as file:
        try:
            tensors = {key: file.get_tensor(key) for key in KEYS}
        except SafetensorError as error:
            raise RacError(f"{path} is damaged: {error}; delete it to have it made again") from None
    if _digest(tensors) != read_metadata(path).get("sha256"):
        raise RacError(f"{path} is damaged: its token ids are not those written; delete it")
    token_ids, lengths, prompt_lengths = (tensors[key] for key in KEYS)
    pieces = token_ids.long().split(lengths.tolist())
    return [Sequence(ids, n) for ids, n in zip(pieces, prompt_lengths.tolist(), strict=True)]


def read_metadata(path: Path) -> dict[str, str]:
    """`kind` of the source and `model` (weights_sha256) that a file of sequences was written for."""
    with _opened(path) as file:
        try:
            return json.loads(file.metadata()["source"])
        except (KeyError, TypeError):
            raise RacError(f"{path} is damaged: no source is named in it; delete it") from None


def metadata_for(path: Path, model: Path) -> dict[str, str]:
    """`read_metadata`, of a file that was written for the model in a folder.

    Raises:
        RacError: as there, or it was written for another model.
    """
    found = read_metadata(path)
    if found["model"] != checkpoint.identity(model):
        raise RacError(f"{path} was made for another model than {model}; delete it")
    return found


def _opened(path: Path):
    try:
        return safe_open(path, "pt")
    except FileNotFoundError:
        raise RacError(f"{path} is missing") from None
    except SafetensorError as error:
        raise RacError(f"{path} is damaged: {error}; delete it to have it made again") from None
