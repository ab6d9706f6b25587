"""Where lm-eval's tasks are defined, and what their files say. Imports no lm-eval, which takes seconds."""

import difflib
import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rac.errors import RacError, one_line
from rac.yaml_nodes import nodes

TASKS = Path(__file__).resolve().parent / "tasks"
# What tasks ask of a model. The others are of log-likelihoods.
SAMPLES, CHOICES, ROLLING = "generate_until", "multiple_choice", "loglikelihood_rolling"


class TaskFile(NamedTuple):
    """A file of a task: what it says, and the files that it includes."""

    path: Path
    output_type: str | None
    includes: list[Path]
    modules: list[str]  # of what it names by `!function module.name`

    def beside(self, module: str) -> Path:
        """Where lm-eval looks for a module first."""
        return self.path.parent / f"{module.replace('.', '/')}.py"


def chain(file: Path) -> Iterator[TaskFile]:
    """A task file and all that it includes, each before those that it wins over.

    A file that is missing says nothing.

    Raises:
        RacError: one of them cannot be read.
    """
    waiting, seen = [file.resolve()], set()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            read = _read(path)
            yield read
            waiting += read.includes  # of several the last one wins


def read_from(file: Path) -> list[Path]:
    """The files that a task is read from: those of its chain, and modules that lie beside them."""
    found: dict[Path, None] = {}
    for part in chain(file):
        beside = [part.beside(module).resolve() for module in part.modules]
        found |= dict.fromkeys([part.path, *(module for module in beside if module.is_file())])
    return list(found)


@functools.cache
def output_type(name: str) -> str:
    """What a task asks of a model, as its file or one that it includes says: SAMPLES, if none does."""
    said = (part.output_type for part in chain(task_file(name)))
    return next(filter(None, said), SAMPLES)


@functools.cache
def runs_programs(name: str) -> bool:
    """Whether a task, ours or one that is made of ours, runs what the model writes."""
    code = TASKS / "code_utils.py"
    return any(
        module == "rac.evaluate.tasks.code_utils" or part.beside(module) == code
        for part in chain(task_file(name))
        for module in part.modules
    )


def check_whole(name: str) -> None:
    """Refuse a task whose file includes one that is not there.

    Raises:
        RacError: names both.
    """
    for part in chain(task_file(name)):
        for included in part.includes:
            if not included.is_file():
                raise RacError(f"{part.path} includes {included}, which is missing")


def _read(path: Path) -> TaskFile:
    """What a file says, without what its tags stand for."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        document = yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RacError(f"the task file {path} cannot be read: {one_line(error)}") from None
    said: dict[str, list[str]] = {}
    if isinstance(document, yaml.MappingNode):
        said = {str(key.value): _texts(value) for key, value in document.value}
    scalars = (node for node in nodes(document) if isinstance(node, yaml.ScalarNode))
    functions = [node.value for node in scalars if node.tag == "!function"]
    return TaskFile(
        path,
        next(iter(said.get("output_type", [])), None),
        [(path.parent / name).resolve() for name in said.get("include", [])],
        sorted({module for module, dot, _ in (name.rpartition(".") for name in functions) if dot}),
    )


def _texts(node: Any) -> list[str]:
    """The text of a YAML node, or of those that it lists."""
    items = node.value if isinstance(node.value, list) else [node]
    return [item.value for item in items if isinstance(getattr(item, "value", None), str)]


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
    harness = importlib.util.find_spec("lm_eval")
    assert harness is not None and harness.submodule_search_locations
    if file := _defining(line, Path(harness.submodule_search_locations[0]) / "tasks"):
        return file
    import lm_eval.tasks

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
