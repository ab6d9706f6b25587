import pytest

from rac.artifacts import read_jsonl, write_jsonl
from rac.errors import RacError
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
        ("hellaswag", "'hellaswag' is scored by log-likelihood"),
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "line"),
    [("word_problem", "did you mean 'word_problems'"), ("math_word_problems", "is a tag")],
)
def test_names_that_are_no_task(bench, checkpoint, tmp_path, task, line):
    with pytest.raises(RacError, match=line):
        build_requests(task, bench / "data.jsonl", checkpoint, tmp_path / "requests")


def test_rows_of_mixed_types_are_refused_in_one_line(checkpoint, tmp_path):
    data = tmp_path / "data.jsonl"
    write_jsonl(data, [{"id": "a", "problem": "?", "answer": a} for a in ("1", 2, [3])])
    with pytest.raises(RacError, match="cannot be built from the rows of"):
        build_requests("math500", data, checkpoint, tmp_path / "out")
