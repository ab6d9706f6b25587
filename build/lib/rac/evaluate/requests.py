"""The prompts of a benchmark for one model, built by lm-eval."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rac.artifacts import write_jsonl
from rac.evaluate.harness import CONTEXT, as_messages, load_task
from rac.models.chat import opening, render, settings, token_ids


def build_requests(task_name: str, data: Path, checkpoint: Path, output: Path) -> None:
    """Write requests.jsonl.zst: a row a problem, its prompt after the model's chat template.

    Args:
        task_name: a registered lm-eval task or the path of a task file.
        data: the data.jsonl of the benchmark's dataset; the task's prompts see its columns.
        checkpoint: the Hugging Face folder whose tokenizer and chat template are used.
        output: the file to write. A row: `doc_id`, `id`, `messages` (before the template),
            `prompt`, `token_ids`, and `opening` (a `<think>` that the template opened, or "").

    Raises:
        RacError: the task is unknown, not of the generating kind or does not fit `data`; the
            tokenizer is damaged or has no chat template.
    """
    task = load_task(task_name, data)
    from rac.models.checkpoint import load_tokenizer

    tokenizer = load_tokenizer(checkpoint)
    task.build_all_requests(chat_template=as_messages, **CONTEXT)
    write_jsonl(output, _rows(task.instances, tokenizer, settings(checkpoint)))


def _rows(instances: list[Any], tokenizer: Any, chat: dict) -> Iterator[dict]:
    for instance in instances:
        messages = json.loads(instance.args[0])
        prompt = render(tokenizer, messages, chat)
        yield {
            "doc_id": instance.doc_id,
            "id": str(instance.doc.get("id", instance.doc_id)),
            "messages": messages,
            "prompt": prompt,
            "token_ids": token_ids(tokenizer, prompt),
            "opening": opening(prompt),
        }
