"""A stage's fingerprint changes with the code that it runs, and with nothing else."""

import shutil

import pytest

from rac import fingerprint
from rac.solvers import NEEDS_HESSIAN


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that the fingerprints are taken of."""
    copy = tmp_path / "rac"
    shutil.copytree(
        fingerprint.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
    )
    monkeypatch.setattr(fingerprint, "PACKAGE", copy)
    fingerprint._read.cache_clear()
    yield copy
    fingerprint._read.cache_clear()


SOLVERS = list(NEEDS_HESSIAN)


def stages() -> dict[str, str]:
    fingerprint._read.cache_clear()
    chosen = {f"compress {name}": ("compress", f"rac.solvers.{name}") for name in SOLVERS}
    for engine in ("transformers", "vllm"):
        for name in ("traces", "generate"):
            chosen[f"{name} {engine}"] = (name, f"rac.engines.{engine}")
    names = {name for name, *_ in chosen.values()}
    plain = {name: (name,) for name in fingerprint.STAGES if name not in names}
    return {name: fingerprint.stage(*names) for name, names in (plain | chosen).items()}


def changed_by(package, file: str, addition: str) -> set[str]:
    """The stages whose fingerprint changes when a line is added to a file."""
    before = stages()
    with (package / file).open("a", encoding="utf-8") as stream:
        stream.write(addition)
    after = stages()
    return {name for name in after if before[name] != after[name]}


CODE = "\nADDED = 1\n"


def test_stages_are_told_apart_and_stay_as_they_are(package):
    first = stages()
    assert first == stages()
    assert len(set(first.values())) == len(first)
    assert all(len(value) == 16 for value in first.values())


@pytest.mark.parametrize("file", ["artifacts.py", "sources.py", "solvers/sparsegpt.py"])
def test_comments_and_blank_lines_change_nothing(package, file):
    assert changed_by(package, file, "\n\n# why\n\n") == set()


def test_docstrings_change_nothing_and_other_strings_do(package):
    file = package / "made.py"

    def taken(text: str) -> str:
        file.write_text(text)
        fingerprint._read.cache_clear()
        return fingerprint.fingerprint("rac.made")

    bare = taken("def f():\n    return 1\n\nclass A:\n    x = 1\n")
    told = taken(
        '"""M."""\ndef f():\n    """F."""\n    return 1\n\n\nclass A:\n    """A."""\n\n    x = 1\n'
    )
    assert told == bare
    assert taken("def f():\n    return 'F.'\n\nclass A:\n    x = 1\n") != bare


@pytest.mark.slow
def test_code_changes_the_stages_that_import_it_at_any_depth(package):
    assert changed_by(package, "datasets/files.py", CODE) == {"dataset"}
    engines = ("transformers", "vllm")
    assert changed_by(package, "traces.py", CODE) == {f"traces {name}" for name in engines}
    assert changed_by(package, "generate.py", CODE) == {f"generate {name}" for name in engines}
    assert changed_by(package, "losses.py", CODE) == {"losses"}
    assert changed_by(package, "diagnostics.py", CODE) == {"diagnostics"}
    assert changed_by(package, "token_errors.py", CODE) == {"losses"}
    assert "losses" not in changed_by(package, "hessians.py", CODE)
    assert changed_by(package, "compress.py", CODE) == {f"compress {name}" for name in SOLVERS}
    sampled = {"traces vllm", "generate vllm"}
    assert changed_by(package, "engines/vllm.py", CODE) == sampled
    sampled = {"traces transformers", "generate transformers"}
    assert changed_by(package, "engines/transformers.py", CODE) == sampled | {"runtime"}
    everywhere = changed_by(package, "artifacts.py", CODE)
    assert {"dataset", "model", "traces vllm", "generate transformers", "score"} <= everywhere


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_changes_the_compress_stage_that_uses_it(package, solver):
    assert changed_by(package, f"solvers/{solver}.py", CODE) == {f"compress {solver}"}


def test_a_task_changes_requests_and_scores_and_a_page_the_report(package):
    assert changed_by(package, "evaluate/tasks/math500.yaml", "\n# x\n") == {"requests", "score"}
    assert changed_by(package, "report/page.html", "<!-- -->") == {"report"}


def test_what_the_paper_printed_changes_the_summary(package):
    assert changed_by(package, "report/paper.csv", "\n") == {"summary"}


@pytest.mark.parametrize("file", ["config.py", "definitions.py", "errors.py", "progress.py"])
def test_what_reaches_a_stage_as_parameters_or_is_shown_alone_changes_nothing(package, file):
    # A new key of config.yaml would recompute everything otherwise.
    assert changed_by(package, file, CODE) == set()


def test_an_unknown_module_is_an_error(package):
    with pytest.raises(FileNotFoundError):
        fingerprint.fingerprint("rac.absent")
