"""Code identity of a stage, for the rules' params: Snakemake does not see a change inside a package.

The identity of a module is that of its syntax tree without docstrings (so a comment, a docstring or a
blank line changes nothing), together with the modules of this package that it imports, followed
statically. A module that only some definitions choose (a solver, an engine) is named by the rule that
uses it.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent

# Not followed: what definitions say reaches a stage as parameters, and the rest is only shown to the user.
# Without this, every edit of the configuration's checks would recompute everything.
APART = {
    *("rac.config", "rac.definitions", "rac.variants", "rac.schema", "rac.errors"),
    *("rac.progress", "rac.provenance"),
}

# Not followed either, but named by the rule whose definition asks for them: a solver, an engine, …
CHOSEN = {
    *(f"rac.solvers.{name}" for name in ("magnitude", "wanda", "sparsegpt", "alps", "structured")),
    *("rac.solvers.gptq", "rac.solvers.grids", "rac.models.quantized", "rac.models.narrow"),
    *("rac.allocation", "rac.smooth", "rac.propagation", "rac.reconstruct", "rac.select"),
    *("rac.engines.transformers", "rac.engines.vllm", "rac.evaluate.tasks.code_utils"),
}

TASKS = sorted(str(file.relative_to(PACKAGE)) for file in PACKAGE.glob("evaluate/tasks/*.yaml"))

STAGES = {
    "dataset": ["rac.datasets.prepare"],
    "model": ["rac.models.prepare"],
    "traces": ["rac.traces"],  # and the model's engine
    "sources": ["rac.sources"],
    "hessians": ["rac.hessians"],
    "compress": ["rac.compress"],  # and what the variant chooses
    "requests": ["rac.evaluate.requests", *TASKS],
    "generate": ["rac.generate"],  # and the model's engine
    "likelihoods": ["rac.likelihoods"],  # in place of both, where the task draws no samples
    "score": ["rac.evaluate.score", "rac.evaluate.tasks.utils", *TASKS],  # and what runs programs
    "diagnostics": ["rac.diagnostics"],  # and what reads quantized weights
    "losses": ["rac.losses"],
    "overlaps": ["rac.overlaps"],
    "runtime": ["rac.runtime", "rac.engines.transformers"],
    "summary": ["rac.report.summary", "rac.matrix", "report/paper.csv"],
    "report": [
        *("rac.report.page", "rac.report.times", "rac.matrix"),
        *("report/page.html", "report/page.css", "report/page.js"),
    ],
}


def stage(name: str, *chosen: str) -> str:
    """Fingerprint of a stage's code, with the modules `chosen` by name at run time."""
    return fingerprint(*STAGES[name], *chosen)


def fingerprint(*names: str) -> str:
    """Sixteen hexadecimal digits that change when the code behind `names` does.

    Args:
        names: modules such as "rac.compress", or data files of the package such as "report/page.html".

    Raises:
        FileNotFoundError: no such module or file in this package.
    """
    seen: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen or name in APART or (name in CHOSEN and name not in names):
            continue
        file = _module(name)
        if file:
            seen[name], imported = _read(file)
            waiting.extend(imported)
        else:
            seen[name] = hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest()
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(seen.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _module(name: str) -> Path | None:
    """The file of a module of this package, if `name` is one."""
    if not name.startswith("rac."):
        return None
    path = PACKAGE.joinpath(*name.split(".")[1:])
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


@functools.cache
def _read(file: Path) -> tuple[str, tuple[str, ...]]:
    """Digest of a module's code, and the names of the package's modules that it imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    imported: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
            imported.add(node.module)
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):  # a docstring
                node.body = node.body[1:] or [ast.Pass()]
    digest = hashlib.sha256(ast.unparse(tree).encode()).hexdigest()
    return digest, tuple(name for name in imported if _module(name))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements in it; what is within expressions, nine tenths of a tree, is passed by."""
    yield node
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, field, ()):
            yield from _statements(inner)
