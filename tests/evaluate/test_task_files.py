"""What task files say is found without lm-eval: of them, of what they include, of the code that they name."""

from pathlib import Path

import pytest

from rac.errors import RacError
from rac.evaluate import task_files
from rac.evaluate.task_files import TASKS, output_type, runs_programs


def write(folder: Path, **texts: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("word_problems", "generate_until"),
        ("math500", "generate_until"),
        ("arc_challenge", "multiple_choice"),  # its file includes that of arc_easy
        ("mmlu_anatomy", "multiple_choice"),
        ("lambada_openai", "loglikelihood"),
        ("wikitext", "loglikelihood_rolling"),
    ],
)
def test_what_a_task_asks_of_a_model_is_read_from_its_file(name, kind):
    assert output_type(name) == kind


def test_of_several_included_files_the_one_wins_that_wins_in_lm_eval(tmp_path):
    from lm_eval.tasks._yaml_loader import load_yaml

    write(
        tmp_path,
        deep="output_type: loglikelihood\n",
        first="output_type: multiple_choice\n",
        last="include: deep.yaml\n",
        listed="include: [first.yaml, last.yaml]\n",
        other="include:\n- last.yaml\n- first.yaml  # wins\n",
        own="include: [first.yaml]\n\"output_type\": 'loglikelihood_rolling'\n",
    )
    for name in ("listed", "other", "own"):
        file = str(tmp_path / f"{name}.yaml")
        assert output_type(file) == load_yaml(file)["output_type"]


def test_a_task_is_read_from_all_that_it_includes_and_the_code_beside_it(tmp_path):
    write(tmp_path / "shared", base="process_docs: !function code.docs\ninclude: ../ring.yaml\n")
    (tmp_path / "shared/code.py").touch()
    (tmp_path / "parts").mkdir()
    for name in ("mine.py", "unused.py", "parts/filters.py"):
        (tmp_path / name).touch()
    write(
        tmp_path,
        ring="include: shared/base.yaml\n",
        own="include: shared/base.yaml\ndoc_to_text: !function mine.ask\nfilter_list:\n"
        "- {filter: [{function: custom, filter_fn: !function parts.filters.last}]}\n"
        "process_results: !function absent.results\ndoc_to_target: '!function unused.f'\n",
    )
    found = task_files.read_from(tmp_path / "own.yaml")
    assert {str(file.relative_to(tmp_path)) for file in found} == {
        *("own.yaml", "ring.yaml", "shared/base.yaml"),
        *("mine.py", "parts/filters.py", "shared/code.py"),
    }
    assert found[0] == tmp_path / "own.yaml"


def test_a_task_that_is_made_of_one_of_programs_runs_programs(tmp_path):
    (tmp_path / "code_utils.py").touch()
    write(
        tmp_path,
        own=f"include: {TASKS}/humaneval_plus.yaml\ntask: own\n",
        further="include: own.yaml\n",
        named="process_results: !function rac.evaluate.tasks.code_utils.process_results\n",
        math=f"include: {TASKS}/math500.yaml\n# not code_utils\n",
        theirs="process_results: !function code_utils.process_results\n",
    )
    programs = {name: runs_programs(str(tmp_path / f"{name}.yaml")) for name in ("own", "further")}
    assert programs == {"own": True, "further": True}
    assert runs_programs(str(tmp_path / "named.yaml"))
    assert not runs_programs(str(tmp_path / "math.yaml"))
    assert not runs_programs(str(tmp_path / "theirs.yaml"))  # a file of the user's with that name
    assert runs_programs("codeforces") and not runs_programs("math500")


def test_a_file_that_is_missing_or_broken_is_one_line(tmp_path):
    write(tmp_path, own="include: base.yaml\n", base="include: gone.yaml\n", bad="a: [1\n")
    own = str(tmp_path / "own.yaml")
    assert output_type(own) == "generate_until" and not runs_programs(own)
    assert [file.name for file in task_files.read_from(Path(own))][-1] == "gone.yaml"
    with pytest.raises(RacError, match="base.yaml includes .*gone.yaml, which is missing"):
        task_files.check_whole(own)
    (tmp_path / "latin.yaml").write_bytes(b"task: \xe9")
    for name in ("bad", "latin"):
        with pytest.raises(RacError, match=f"{name}.yaml cannot be read: ") as error:
            task_files.check_whole(str(tmp_path / f"{name}.yaml"))
        assert "\n" not in str(error.value)
