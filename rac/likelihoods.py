"""Stage `generate` of tasks that draw no samples: log-likelihoods of given tokens, kept for replay."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from rac import batching, blocks
from rac.artifacts import parts, read_jsonl, write_jsonl
from rac.engines import NotNumbers, version
from rac.errors import RacError
from rac.models import checkpoint as checkpoints
from rac.progress import progress
from rac.provenance import checked_sha256, hashes, provenance, write_record

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Window(NamedTuple):
    """Token ids that are given (at least one), and those that are scored after them (at least one)."""

    context: list[int]
    continuation: list[int]


class Likelihood(NamedTuple):
    """Of a window's continuation: log p in nats, and whether each token is the most probable one."""

    log_likelihood: float
    is_greedy: bool
    halvings: int = 0  # how often the batch had been halved by then, for want of memory


def write_likelihoods(
    dtype: str, checkpoint: Path, requests: Path, code: str, output: Path
) -> None:
    """Write generations.jsonl.zst, one row a request, and generation.json with its cost.

    A row has `doc_id`, `id`, `request`, `log_likelihood` (in nats, of all windows), `is_greedy` and `tokens`
    (scored). Windows are kept in `work/` beside the output, so that an interrupted stage goes on after the
    last batch; batches, and with them the last digits, are the same whatever was interrupted, unless memory
    was short.

    Args:
        dtype: what the model runs in.
        checkpoint: the dense or compressed Hugging Face folder.
        requests: requests.jsonl.zst, of log-likelihoods.
        code: fingerprint of the code, so that parts of another version are thrown away.
        output: generations.jsonl.zst; generation.json is written beside it.

    Raises:
        RacError: an input is missing or damaged, the model's logits are not numbers, or memory is short for a
            window by itself.
    """
    of_requests, asked = checked_sha256(requests), read_jsonl(requests)
    windows = [Window(*window) for row in asked for window in row["windows"]]
    inputs: dict[str, Any] = {
        "dtype": dtype,
        "engine": f"transformers {version('transformers')}",
        "weights": checkpoints.identity(checkpoint),
        "requests": of_requests,
        "threads": torch.get_num_threads(),
        "code": code,
    }
    tokens = sum(len(context) + len(continuation) - 1 for context, continuation in windows)

    def named(batches: Iterator[dict[int, Likelihood]]) -> Iterator[dict[int, Likelihood]]:
        try:
            yield from batches
        except NotNumbers as error:
            of_window = [row for row in asked for _ in row["windows"]]
            row = of_window[error.index]
            raise RacError(f"request {row['request']} of problem '{row['id']}': {error}") from None

    def compute(stored: list[dict]) -> Iterator[list[dict]]:
        done = frozenset(row["window"] for row in stored)
        if len(done) == len(windows):
            return
        model = checkpoints.load_model(checkpoint, dtype)
        start = time.perf_counter()
        for found in named(score(model, windows, done, update)):
            seconds = (time.perf_counter() - start) / len(found)
            yield [{"window": i, "seconds": seconds} | one._asdict() for i, one in found.items()]
            start = time.perf_counter()

    with progress("log-likelihoods", tokens) as update:
        scored = [row for part in parts(output.parent / "work", inputs, compute) for row in part]
    scored.sort(key=lambda row: row["window"])
    of_windows, rows = iter(scored), []
    for request in asked:
        found = [next(of_windows) for _ in request["windows"]]
        rows.append(
            {key: request[key] for key in ("doc_id", "id", "request")}
            | {
                "log_likelihood": sum(row["log_likelihood"] for row in found),
                "is_greedy": all(row["is_greedy"] for row in found),
                "tokens": sum(len(continuation) for _, continuation in request["windows"]),
            }
        )
    seconds = sum(row["seconds"] for row in scored)
    write_jsonl(output, rows)
    write_record(
        output.parent / "generation.json",
        {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}
        | {"halvings": max(row["halvings"] for row in scored)}
        | hashes(output.parent, output.name)
        | provenance("likelihoods", **inputs),
    )


@torch.inference_mode()
def score(
    model: "PreTrainedModel",
    windows: list[Window],
    done: frozenset[int] = frozenset(),
    update: Callable[[int], object] = lambda tokens: None,
) -> Iterator[dict[int, Likelihood]]:
    """Yield the log-likelihoods of windows by their index, a batch after another.

    Windows that are the same but for their last token are run once. Batches are of like lengths, padded
    on the right, which causal attention does not see. Where a GPU has no memory for a batch, it and those
    after it are run in halves, and standard error says so: the last digits hang on what shares a batch.

    Args:
        model: a causal language model.
        windows: what is given and what is scored.
        done: indices that are not wanted. They change no batch, only which are run.
        update: called with the number of tokens of each batch.

    Raises:
        NotNumbers: the logits of a window are none.
        RacError: memory is short for a sequence by itself.
    """
    sharing: dict[tuple[int, ...], list[int]] = {}
    for i, (context, continuation) in enumerate(windows):
        sharing.setdefault((*context, *continuation[:-1]), []).append(i)
    inputs = list(sharing)

    def run(batch: list[int]) -> dict[int, Likelihood]:
        wanted = {i for row in batch for i in sharing[inputs[row]]} - done
        if not wanted:
            return {}
        found = _at_once(model, windows, {inputs[row]: sharing[inputs[row]] for row in batch})
        update(sum(len(windows[i].context) + len(windows[i].continuation) - 1 for i in wanted))
        return {i: found[i] for i in sorted(wanted)}

    lengths, most = [len(ids) for ids in inputs], blocks.BATCH_TOKENS[model.device.type]
    for found, halvings in batching.run_in_batches(run, lengths, most):
        if found:
            yield {i: one._replace(halvings=halvings) for i, one in found.items()}


def _at_once(
    model: "PreTrainedModel", windows: list[Window], sharing: dict[tuple[int, ...], list[int]]
) -> dict[int, Likelihood]:
    """Of the windows that share some inputs, which are one batch.

    Raises:
        NotNumbers: the logits of a window are none.
    """
    token_ids = pad_sequence([torch.tensor(ids) for ids in sharing], batch_first=True)
    first = min(len(windows[i].context) - 1 for of_ids in sharing.values() for i in of_ids)
    kept = torch.arange(first, token_ids.shape[1], device=model.device)
    logits = model(
        input_ids=token_ids.to(model.device), use_cache=False, logits_to_keep=kept
    ).logits
    found = {}
    for of_ids, of_row in zip(sharing.values(), logits, strict=True):
        for i in of_ids:
            context, continuation = windows[i]
            start = len(context) - 1 - first
            one = _likelihood(of_row[start : start + len(continuation)], continuation)
            if math.isnan(one.log_likelihood):
                raise NotNumbers(i)
            found[i] = one
    return found


def _likelihood(logits: torch.Tensor, continuation: list[int]) -> Likelihood:
    """Of tokens that are predicted by logits [tokens, vocabulary]."""
    targets = torch.tensor(continuation, device=logits.device)
    of_tokens = logits.float().log_softmax(-1).gather(-1, targets[:, None]).double()
    return Likelihood(of_tokens.sum().item(), bool((logits.argmax(-1) == targets).all()))
