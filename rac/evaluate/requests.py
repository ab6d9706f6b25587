"""The prompts of a benchmark for one model, built by lm-eval."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rac.artifacts import write_jsonl
from rac.evaluate.harness import CONTEXT, as_messages, load_task

_OPENED = re.compile(r"<think>\s*\Z")


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
    write_jsonl(output, _rows(task.instances, tokenizer))


def _rows(instances: list[Any], tokenizer: Any) -> Iterator[dict]:
    for instance in instances:
        messages = json.loads(instance.args[0])
        prefilled = messages[-1]["role"] == "assistant"
        prompt = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not prefilled,
            continue_final_message=prefilled,
        )
        opened = _OPENED.search(prompt)
        yield {
            "doc_id": instance.doc_id,
            "id": str(instance.doc.get("id", instance.doc_id)),
            "messages": messages,
            "prompt": prompt,
            # The template writes the special tokens itself.
            "token_ids": tokenizer(prompt, add_special_tokens=False)["input_ids"],
            "opening": opened[0] if opened else "",
        }
