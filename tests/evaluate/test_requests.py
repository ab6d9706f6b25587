import pytest

from rac.artifacts import read_jsonl, write_jsonl
from rac.errors import RacError
from rac.evaluate.harness import load_rows
from rac.evaluate.requests import build_requests
from rac.models.checkpoint import load_tokenizer


def test_a_request_is_the_problem_after_the_chat_template(bench, checkpoint):
    rows = read_jsonl(bench / "requests.jsonl.zst")
    assert [(row["doc_id"], row["id"]) for row in rows] == [(0, "half"), (1, "seven"), (2, "ten")]
    messages = [{"role": "user", "content": "What is 3+4?"}]
    tokenizer = load_tokenizer(checkpoint)
    row = rows[1]
    assert row["messages"] == messages
    assert row["prompt"] == tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert row["token_ids"] == tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert row["opening"] == "<think>\n"


def test_the_papers_prompt_and_a_task_file_of_ones_own(tmp_path, checkpoint):
    data = tmp_path / "data.jsonl"
    write_jsonl(data, [{"id": "a", "problem": "Find x. <think>", "answer": "1"}])
    build_requests("math500", data, checkpoint, tmp_path / "math.jsonl.zst")
    (row,) = read_jsonl(tmp_path / "math.jsonl.zst")
    assert row["messages"][0]["content"] == (
        "Find x. <think>\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    own = tmp_path / "it's mine.yaml"
    own.write_text(
        "task: mine\ndataset_path: nobody/nowhere\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: 'Q: {{problem}}'\ndoc_to_target: '{{answer}}'\ngen_prefix: 'A: <think> so'\n"
        "description: 'Be brief.'\n"
    )
    build_requests(str(own), data, checkpoint, tmp_path / "own.jsonl.zst")
    (row,) = read_jsonl(tmp_path / "own.jsonl.zst")
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert row["prompt"].endswith("A: <think> so") and row["opening"] == ""


@pytest.mark.parametrize(
    ("task", "line"),
    [
        ("gsm8k", "'gsm8k' cannot be built from the rows of .*: .*'question' is undefined"),
        ("hellaswag", "'hellaswag' cannot be built from the rows of .*KeyError: 'ctx_a'"),
        ("humaneval", "'humaneval' runs the model's code"),
        ("mmlu", "'mmlu' is a group of lm-eval tasks"),
        ("nowhere.yaml", "task file nowhere.yaml is missing"),
    ],
)
def test_tasks_that_cannot_be_built_say_why(bench, checkpoint, tmp_path, task, line):
    output = tmp_path / "requests.jsonl.zst"
    with pytest.raises(RacError, match=line) as caught:
        build_requests(task, bench / "data.jsonl", checkpoint, output)
    assert "\n" not in str(caught.value)
    assert not output.exists()


STDIN = {"problem": "Double it.", "tests": [{"input": "2", "output": "4"}]}
CALLED = {"prompt": "Square it.", "code": "def f(x): return x * x", "test_imports": []}
CALLED |= {"test_list": ["assert f(2) == 4"], "test": "assert f(3) == 9"}
CASES = '[{"input": "2", "output": "4", "testtype": "stdin"}]'
CONTEST = {"question_content": "Double it.", "starter_code": "", "metadata": "{}"}
CONTEST |= {"public_test_cases": CASES, "private_test_cases": "[]"}


@pytest.mark.parametrize(
    ("task", "row", "lacking", "line"),
    [
        ("codeforces", STDIN, {"tests": None}, "a program without tests"),
        ("codeforces", STDIN, {"tests": []}, "a program without tests"),
        ("codeforces", STDIN, {"tests": "[{"}, "JSONDecodeError: "),
        ("codeforces", STDIN, {"tests": [{"input": "2"}]}, "number 1 has neither input and"),
        ("mbpp_plus", CALLED, {"test_list": ["assert 1"]}, "calls no function that its code"),
        ("mbpp_plus", CALLED, {"code": "def"}, "SyntaxError: "),
        ("livecodebench", CONTEST, {"private_test_cases": "eJ"}, "rror: "),
        ("livecodebench", CONTEST, {"metadata": "{"}, "JSONDecodeError: "),
        ("math500", {"problem": "?", "answer": "1"}, {"answer": None}, "no answer to grade by"),
    ],
)
def test_what_an_answer_is_graded_by_is_there_before_it_is_generated(
    checkpoint, tmp_path, task, row, lacking, line
):
    data, output = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    write_jsonl(data, [{"id": "whole"} | row])
    build_requests(task, data, checkpoint, output)
    output.unlink()
    write_jsonl(data, [{"id": "whole"} | row, {"id": "lacks"} | row | lacking])
    with pytest.raises(RacError, match=f"problem 'lacks' .*{line}") as caught:
        build_requests(task, data, checkpoint, output)
    assert "\n" not in str(caught.value)
    assert not output.exists()


def test_rows_are_checked_without_any_sandbox(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("rac.evaluate.code.check", None)
    write_jsonl(tmp_path / "data.jsonl", [{"id": "a"} | STDIN])
    build_requests("codeforces", tmp_path / "data.jsonl", checkpoint, tmp_path / "out.jsonl")
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "line"),
    [("word_problem", "did you mean 'word_problems'"), ("math_word_problems", "is a tag")],
)
def test_names_that_are_no_task(bench, checkpoint, tmp_path, task, line):
    with pytest.raises(RacError, match=line):
        build_requests(task, bench / "data.jsonl", checkpoint, tmp_path / "requests")


def test_too_few_rows_for_the_examples_are_one_line(checkpoint, tmp_path):
    write_jsonl(tmp_path / "data.jsonl", [{"question": "1+1?", "answer": "#### 2"}])
    with pytest.raises(RacError, match="requests of the task 'gsm8k' cannot be built: .*larger"):
        build_requests("gsm8k", tmp_path / "data.jsonl", checkpoint, tmp_path / "out")


def test_rows_are_as_they_are_whatever_their_types(checkpoint, tmp_path):
    data = tmp_path / "data.jsonl"
    write_jsonl(data, [{"id": "a", "problem": "?", "answer": a} for a in ("1", 2, [3])])
    build_requests("math500", data, checkpoint, tmp_path / "out.jsonl")
    assert len(read_jsonl(tmp_path / "out.jsonl")) == 3
    rows = load_rows(str(data))["test"]
    assert [row["answer"] for row in rows] == ["1", 2, [3]]


def test_rows_are_a_dataset_to_a_tasks_own_code(tmp_path):
    write_jsonl(
        tmp_path / "data.jsonl", [{"n": n} | ({"odd": 1} if n % 2 else {}) for n in range(6)]
    )
    rows = load_rows(str(tmp_path / "data.jsonl"))["test"]
    assert len(rows) == 6 and rows[0] == {"n": 0, "odd": None, "sandbox": "bubblewrap"}
    assert list(rows.features) == ["n", "sandbox", "odd"]
    kept = rows.filter(lambda row: row["odd"] == 1).map(lambda row: {"n": -row["n"]})
    assert [row["n"] for row in kept] == [-1, -3, -5]
    assert rows["n"] == [0, 1, 2, 3, 4, 5] and rows[1:3]["n"] == [1, 2]


def test_a_dataset_that_was_cut_is_refused(tmp_path, checkpoint, cut):
    data = tmp_path / "data.jsonl"
    write_jsonl(data, [{"id": key, "problem": "?", "answer": "1"} for key in "ab"])
    cut(data)
    with pytest.raises(RacError, match="data.jsonl is not the file that its meta.json was written"):
        build_requests("word_problems", data, checkpoint, tmp_path / "requests.jsonl.zst")
    assert not (tmp_path / "requests.jsonl.zst").exists()
