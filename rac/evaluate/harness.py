"""One lm-eval task, on the rows of our own data file."""

import functools
import importlib
import importlib.util
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rac.artifacts import read_jsonl
from rac.errors import RacError, one_line
from rac.evaluate.task_files import SAMPLES, output_type, task_file

FEWSHOT_SEED = 1234  # lm-eval's default

# A task file that includes another one. Few-shot examples are drawn from the same rows, of which
# lm-eval then leaves out the one that is asked.
OVERRIDE = """\
include: {task}
custom_dataset: !function rac.evaluate.harness.load_rows
dataset_kwargs: null
metadata: {{file: {data}, sandbox: {sandbox}}}
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
        RacError: there is no such task, it needs columns that `data` lacks, or it is of a kind
            that is not supported.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    TaskManager = task_manager()  # noqa: N806
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
        if name.startswith("hendrycks_math"):
            raise RacError(
                f"the task '{name}' looks for an answer between dollar signs, never for \\boxed: use "
                "'math500', which takes the same problems"
            )
        if settings.get("unsafe_code"):
            raise RacError(f"the task '{name}' runs the model's code, which is not supported")
        try:
            (task,) = manager.load(str(override))["tasks"].values()
        except RacError:
            raise
        except Exception as error:
            raise RacError(
                f"the task '{name}' cannot be built from the rows of {data}: {cause(error)}"
            ) from error
    if output_type(name) != task.OUTPUT_TYPE:
        raise RacError(f"the task '{name}' is {task.OUTPUT_TYPE} and its file does not say so")
    return task


def instances(task: Any) -> list[Any]:
    """lm-eval's requests of a task, the same each time: when they are made, and when they are replayed.

    Prompts to sample from are messages, for the model's own chat template. Contexts of log-likelihoods
    are plain text, as lm-eval has it.

    Raises:
        RacError: a row lacks what the prompt needs, or there are too few rows for the examples.
    """
    task.set_fewshot_seed(FEWSHOT_SEED)
    messages = {
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "chat_template": as_messages,
    }
    try:
        task.build_all_requests(**(messages if task.OUTPUT_TYPE == SAMPLES else {}))
    except Exception as error:
        raise RacError(
            f"the requests of the task '{task.config.task}' cannot be built: {cause(error)}"
        ) from error
    return task.instances


def judged(task: Any) -> dict[str, dict[int, tuple[dict, dict]]]:
    """What a task makes of the answers in its requests' `resps`.

    Returns:
        By filter and `doc_id`, the row and its metrics.

    Raises:
        RacError: the task fails, at a row that lacks what it grades by, say.
    """
    name = task.config.task
    try:
        task.apply_filters()
    except RacError:
        raise
    except Exception as error:
        raise RacError(f"the task '{name}' cannot grade answers: {cause(error)}") from error
    by_problem: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_problem.setdefault(instance.doc_id, []).append(instance)
    found: dict[str, dict[int, tuple[dict, dict]]] = {}
    for filtered in task.instances[0].filtered_resps:
        of_filter = found.setdefault(filtered, {})
        for doc_id, of_problem in by_problem.items():
            row, answers = of_problem[0].doc, [each.filtered_resps[filtered] for each in of_problem]
            try:
                of_filter[doc_id] = row, task.process_results(row, answers)
            except RacError:
                raise
            except Exception as error:
                problem = row.get("id", doc_id)
                raise RacError(
                    f"the task '{name}' cannot grade problem '{problem}': {cause(error)}"
                ) from error
    return found


def cause(error: Exception) -> str:
    """What another package's exception says, as a part of one line."""
    return f"{type(error).__name__}: {one_line(error)}"


class _Later(ModuleType):
    """Stands in for a package until something of it is asked for."""

    ndarray: Any

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@functools.cache
def task_manager() -> Any:
    """lm-eval's TaskManager, without what costs a process of scoring most of its time.

    That is what lm-eval imports to no use here, and templates that it compiles anew for each row.
    """
    for package in ("datasets", "numpy", "requests", "sacrebleu"):
        if package not in sys.modules:
            later = _Later(package)
            later.__spec__ = importlib.util.find_spec(package)
            sys.modules[package] = later
    numpy = sys.modules["numpy"]
    if isinstance(numpy, _Later):
        numpy.ndarray = Any  # which an annotation asks for
    from lm_eval import utils
    from lm_eval.tasks import TaskManager

    if isinstance(numpy, _Later):
        del numpy.ndarray
    utils.env.from_string = functools.lru_cache(utils.env.from_string)
    return TaskManager


class Rows(Sequence):
    """Rows of a dataset as they are, with what tasks ask of `datasets.Dataset`.

    lm-eval itself asks for rows and the names of columns alone; a real Dataset is made when a task's own
    code asks for more.
    """

    def __init__(self, rows: list[dict]) -> None:
        self.features = dict.fromkeys(name for row in rows for name in row)
        self._rows = [self.features | row for row in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        return self._rows[key] if isinstance(key, int) else self._dataset[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._dataset, name)

    @functools.cached_property
    def _dataset(self) -> Any:
        import datasets

        return datasets.Dataset.from_list(self._rows)


def load_rows(file: str, sandbox: str = "bubblewrap", **_: Any) -> dict[str, Rows]:
    """The rows of a data.jsonl as split "test", in memory: no hub, no cache on the disk.

    A column `sandbox` says in which one a program that answers the row is run.
    """
    return {"test": Rows([row | {"sandbox": sandbox} for row in read_jsonl(Path(file))])}


def as_messages(chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """A context for lm-eval in place of a rendered chat template: the messages, as JSON.

    The model's own template renders them when requests are made (an answer that the task began is
    the last message); scoring then needs neither tokenizer nor template.
    """
    return json.dumps(chat_history, ensure_ascii=False)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
