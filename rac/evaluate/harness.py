"""One lm-eval task, on the rows of our own data file."""

import difflib
import functools
import json
import logging
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from rac.artifacts import read_jsonl
from rac.errors import RacError

TASKS = Path(__file__).parent / "tasks"
FEWSHOT_SEED = 1234  # lm-eval's default
# How contexts are built, when requests are made and again when they are replayed.
CONTEXT: dict[str, Any] = {"apply_chat_template": True, "fewshot_as_multiturn": True}
# Nobody asks the hub: rows come from data files, and tokenizers from folders.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}

# A task file that includes another one. Few-shot examples are drawn from the same rows, of which
# lm-eval then leaves out the one that is asked.
OVERRIDE = """\
include: {task}
custom_dataset: !function rac.evaluate.harness.load_rows
dataset_kwargs: {{file: {data}, sandbox: {sandbox}}}
training_split: null
validation_split: null
fewshot_split: test
test_split: test
repeats: 1
"""


def load_task(name: str, data: Path, sandbox: str = "bubblewrap") -> Any:
    """The lm-eval task `name` (registered, or the path of a task file) on the rows of `data`.

    Args:
        name: the task.
        data: a data.jsonl.
        sandbox: the level that a task of ours runs programs in.

    Raises:
        RacError: there is no such task, its prompts need columns that `data` lacks, or it is of
            a kind that we cannot generate for.
    """
    os.environ.update(OFFLINE)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    file = task_file(name).resolve()
    with tempfile.TemporaryDirectory() as folder:
        override = Path(folder) / "task.yaml"
        override.write_text(
            OVERRIDE.format(task=_quoted(file), data=_quoted(data.resolve()), sandbox=sandbox)
        )
        manager = TaskManager(include_path=folder, include_defaults=False)
        entry = next((e for e in manager.task_index.values() if e.yaml_path), None)
        settings = (entry.cfg if entry else None) or {}
        if "group" in settings:
            raise RacError(f"'{name}' is a group of lm-eval tasks: name one of its tasks")
        _generates(name, settings.get("output_type"))
        if settings.get("unsafe_code"):
            raise RacError(f"the task '{name}' runs the model's code, which is not supported")
        try:
            (task,) = manager.load(str(override))["tasks"].values()
        except RacError:
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise RacError(
                f"the task '{name}' cannot be built from the rows of {data}: {cause}"
            ) from error
    _generates(name, task.OUTPUT_TYPE)
    task.set_fewshot_seed(FEWSHOT_SEED)
    return task


def _generates(name: str, output_type: str | None) -> None:
    if output_type not in (None, "generate_until"):
        raise RacError(
            f"the task '{name}' is scored by log-likelihood ({output_type}); "
            "only tasks that generate (generate_until) can be evaluated"
        )


def load_rows(file: str, sandbox: str = "bubblewrap", **_: Any) -> dict:
    """The rows of a data.jsonl as split "test", in memory: no hub, no cache on the disk.

    A column `sandbox` says in which one a program that answers the row is run.
    """
    import datasets

    rows = [row | {"sandbox": sandbox} for row in read_jsonl(Path(file))]
    return {"test": datasets.Dataset.from_list(rows)}


@functools.cache
def runs_programs(name: str) -> bool:
    """Whether a task of ours runs what the model writes."""
    file = task_file(name)
    return file.parent == TASKS and "code_utils" in file.read_text(encoding="utf-8")


def as_messages(chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """A context for lm-eval in place of a rendered chat template: the messages, as JSON.

    The model's own template renders them when requests are made (an answer that the task began is
    the last message); scoring then needs neither tokenizer nor template.
    """
    return json.dumps(chat_history, ensure_ascii=False)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def task_file(name: str) -> Path:
    """Where a task is defined: a path, one of ours, or one that lm-eval brings along.

    Raises:
        RacError: there is no such task; names the nearest one.

    lm-eval's own index parses its 14,000 task files (12 s); a search for one line takes 1 s.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise RacError(f"the task file {name} is missing")
        return Path(name)
    line = re.compile(
        rf"^[\"']?(?:task|group)[\"']?:\s*[\"']?{re.escape(name)}[\"']?\s*$", re.MULTILINE
    )
    if file := _defining(line, TASKS):
        return file
    import lm_eval.tasks

    if file := _defining(line, Path(lm_eval.tasks.__file__).parent):
        return file
    index = lm_eval.tasks.TaskManager(include_path=str(TASKS)).task_index
    if name in index:
        if index[name].yaml_path:
            return index[name].yaml_path
        raise RacError(f"'{name}' is a tag of lm-eval tasks: name one of its tasks")
    tasks = [task for task, entry in index.items() if entry.yaml_path]
    near = difflib.get_close_matches(name, tasks, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise RacError(f"there is no lm-eval task '{name}'{hint}")


def _defining(line: re.Pattern[str], folder: Path) -> Path | None:
    """The first task file below a folder that holds a line."""
    files = sorted(folder.rglob("*.yaml"))
    return next((f for f in files if line.search(f.read_text(encoding="utf-8"))), None)
