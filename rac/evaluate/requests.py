"""The requests of a benchmark to one model, built by lm-eval."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rac.artifacts import read_json, sha256_file, write_jsonl
from rac.definitions import Chat
from rac.errors import RacError
from rac.evaluate.harness import instances, judged, load_task
from rac.evaluate.task_files import CHOICES, ROLLING, SAMPLES, task_file
from rac.models.chat import opening, render, token_ids
from rac.provenance import checked_sha256, hashes, provenance, write_record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW = 2048  # tokens at most that a whole text is scored in at a time

Window = tuple[list[int], list[int]]  # token ids that are given, and those that are scored


def build_requests(
    task_name: str,
    data: Path,
    checkpoint: Path,
    output: Path,
    chat: Chat = Chat(),  # noqa: B008
) -> None:
    """Write requests.jsonl.zst: a row a problem, or a row a log-likelihood that it asks for.

    A row has `doc_id` and `id`, and
    - to sample from: `messages` (before the model's chat template), `prompt`, `token_ids`, and `opening` (a
      `<think>` that the template opened, or "");
    - of log-likelihoods: `request` (0, 1, … of a problem), `arguments` (lm-eval's: context and
      continuation, or a whole text), and `windows`: lists of token ids, those that are given and those
      whose probabilities are multiplied.

    requests.json beside it is its record.

    Args:
        task_name: a registered lm-eval task or the path of a task file.
        data: the data.jsonl of the benchmark's dataset; the task's prompts see its columns.
        checkpoint: the Hugging Face folder whose tokenizer and chat template are used.
        output: the file to write.
        chat: what the model is told beside a problem, where it is to answer in writing.

    Raises:
        RacError: the task is unknown, not supported or does not fit `data`; the tokenizer is damaged
            or has no chat template; a choice is empty or longer than the model's context; a row lacks what
            its answer is graded by.
    """
    dataset = checked_sha256(data)
    task = load_task(task_name, data)
    if task.OUTPUT_TYPE == CHOICES:
        _check_answers(task)
    asked = instances(task)
    _rehearse(task)
    from rac.models.checkpoint import identity, load_tokenizer, recorded

    tokenizer = load_tokenizer(checkpoint)
    if task.OUTPUT_TYPE == SAMPLES:
        write_jsonl(output, _prompts(asked, tokenizer, chat))
    else:
        write_jsonl(output, _likelihoods(asked, tokenizer, _positions(checkpoint)))
    made = provenance(
        "requests",
        task=task_name,
        chat=chat.model_dump(),
        task_file=sha256_file(task_file(task_name)),
        dataset=dataset,
        model=identity(checkpoint),
        files=recorded(checkpoint),
    )
    counts = {"problems": len(task.eval_docs), "requests": len(asked)}
    write_record(
        output.with_name("requests.json"), counts | hashes(output.parent, output.name) | made
    )


def _check_answers(task: Any) -> None:
    """Refuse problems whose right answer is none of their choices: lm-eval would call all answers wrong."""
    for number, row in enumerate(task.eval_docs):
        choices = task.doc_to_choice(row)
        answer = task.doc_to_text(row) if task.multiple_input else task.doc_to_target(row)
        for one in answer if isinstance(answer, list) else [answer]:
            if one not in (range(len(choices)) if isinstance(one, int) else choices):
                raise RacError(
                    f"the answer of problem '{row.get('id', number)}', {one!r}, is none of its choices; "
                    "where the column 'answer' is no text, say columns: {answer: null}"
                )


def _rehearse(task: Any) -> None:
    """Grade an empty answer to every request: what rows lack is found before hours of generation."""
    for instance in task.instances:
        answer: Any = "" if task.OUTPUT_TYPE == SAMPLES else (-1.0, False)
        instance.resps = [-1.0 if task.OUTPUT_TYPE == ROLLING else answer]
    judged(task)


def _identity(instance: Any) -> dict[str, Any]:
    return {
        "doc_id": instance.doc_id,
        "id": str(instance.doc.get("id", instance.doc_id)),
    }


def _prompts(asked: list[Any], tokenizer: "PreTrainedTokenizerBase", chat: Chat) -> Iterator[dict]:
    for instance in asked:
        messages = json.loads(instance.args[0])
        prompt = render(tokenizer, messages, chat)
        yield _identity(instance) | {
            "messages": messages,
            "prompt": prompt,
            "token_ids": token_ids(tokenizer, prompt),
            "opening": opening(prompt),
        }


def _likelihoods(
    asked: list[Any], tokenizer: "PreTrainedTokenizerBase", limit: int
) -> Iterator[dict]:
    for instance in asked:
        if instance.request_type == ROLLING:
            windows = rolling_windows(tokenizer, instance.args[0], min(limit, WINDOW))
        else:
            context, continuation = instance.args
            windows = [continuation_window(tokenizer, context, continuation, limit)]
        identity = _identity(instance)
        for context, continuation in windows:
            if not continuation or not context:
                raise RacError(
                    f"problem '{identity['id']}': what its request {instance.idx} asks the probability "
                    f"of has {len(continuation)} tokens, and the model's context holds {limit}"
                )
        yield identity | {
            "request": instance.idx,
            "arguments": list(instance.args),
            "windows": windows,
        }


def _positions(checkpoint: Path) -> int:
    """Tokens that a model has positions for."""
    config = read_json(checkpoint / "config.json")
    config = config.get("text_config") or config
    return config.get("max_position_embeddings") or WINDOW


def continuation_window(
    tokenizer: "PreTrainedTokenizerBase", context: str, continuation: str, limit: int
) -> Window:
    """Token ids of a context and of what follows it, as lm-eval's models tokenize the two.

    Spaces that end the context begin the continuation. They are tokenized together, and cut where the
    context's own tokens end. The first tokens of a context that is too long are left out. An empty
    context is the token that begins (or ends) texts.

    Args:
        limit: positions that the model has.
    """
    if not context:
        ids = tokenizer.encode(continuation, add_special_tokens=False)
        prefix = _prefix(tokenizer)
        given, scored = ([prefix], ids) if ids[:1] != [prefix] else (ids[:1], ids[1:])
    else:
        start = len(context.rstrip())
        context, continuation = context[:start], context[start:] + continuation
        encode = _encoder(tokenizer)
        given = encode(context)
        scored = encode(context + continuation)[len(given) :]
    room = limit + 1 - len(scored)  # nothing is predicted from the last token
    return given[-room:] if room > 0 else [], scored


def rolling_windows(tokenizer: "PreTrainedTokenizerBase", text: str, limit: int) -> list[Window]:
    """A whole text in windows whose tokens are all scored once, as lm-eval cuts it.

    Args:
        limit: tokens of a window. Each begins with the last token of the one before, the last window with as
            many as fill it.
    """
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    ids = _encoder(tokenizer)(text)
    windows = get_rolling_token_windows(ids, _prefix(tokenizer), limit, context_len=1)
    return [make_disjoint_window(window) for window in windows]


def _prefix(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token before a text that nothing stands before."""
    start = tokenizer.bos_token_id
    return tokenizer.eos_token_id if start is None else start


def _encoder(tokenizer: "PreTrainedTokenizerBase") -> Callable[[str], list[int]]:
    """Token ids of a text; the tokenizer's own first token comes first, but not twice."""
    first = str(tokenizer.decode([_prefix(tokenizer)]))

    def encode(text: str) -> list[int]:
        settings = {"add_special_tokens": False} if text.startswith(first) else {}
        return tokenizer.encode(text, **settings)

    return encode
