"""Tasks of log-likelihoods, end to end, against lm-eval's own evaluation of a slow model."""

import math

import pytest
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from rac.artifacts import read_json, read_jsonl, write_jsonl
from rac.definitions import Eval
from rac.errors import RacError
from rac.evaluate.harness import FEWSHOT_SEED, load_task
from rac.evaluate.requests import build_requests, continuation_window, rolling_windows
from rac.evaluate.score import score
from rac.likelihoods import write_likelihoods
from rac.models.checkpoint import load_model, load_tokenizer

ROWS = [
    {
        "id": f"p{i}",
        "problem": f"Tom has {i} apples and eats {i % 3} of them. He has",
        "choices": (choices := [f"{i - i % 3} apples", f"{i + 1} apples left", "none"]),
        "answer": choices[i % 3],
        "text": f"Tom has {i} apples. " * (12 * i),
    }
    for i in range(1, 13)
]
MEAN = "aggregation: mean, higher_is_better: true"
TASKS = {
    "choices": f"""\
output_type: multiple_choice
doc_to_text: "{{{{problem}}}} "
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
num_fewshot: 2
metric_list:
  - {{metric: acc_norm, {MEAN}}}
  - {{metric: acc, {MEAN}}}
  - {{metric: acc_mutual_info, {MEAN}}}
""",
    "target": f"""\
output_type: loglikelihood
doc_to_text: "{{{{problem if id != 'p1' else ''}}}}"
doc_to_target: " {{{{answer}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, {MEAN}}}
""",
    "text": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: bits_per_byte}
""",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A folder with data.jsonl and a task file of each kind."""
    folder = tmp_path_factory.mktemp("likelihoods")
    write_jsonl(folder / "data.jsonl", ROWS)
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\ntest_split: test\n{text}")
    return folder


def evaluated(bench, folder, model, name):
    """Through our stages: rows of requests and scores, and metrics."""
    task, data = str(bench / f"{name}.yaml"), bench / "data.jsonl"
    files = [folder / file for file in ("requests.jsonl.zst", "generations.jsonl.zst")]
    build_requests(task, data, model, files[0])
    write_likelihoods("float32", model, files[0], "c", files[1])
    evaluation = Eval(task=task, dataset="d")
    score(evaluation, data, *files, folder / "scores.jsonl.zst", folder / "metrics.json")
    rows = [read_jsonl(file) for file in (files[0], folder / "scores.jsonl.zst")]
    return *rows, read_json(folder / "metrics.json")


class Slow(TemplateLM):
    """lm-eval's own tokenization of contexts and continuations, and one sequence after another."""

    def __init__(self, folder):
        super().__init__()
        self.tokenizer, self.network = load_tokenizer(folder), load_model(folder, "float32")
        self.max_length = self.network.config.max_position_embeddings

    @property
    def eot_token_id(self):
        return self.tokenizer.eos_token_id

    def tok_encode(self, string, add_special_tokens=None, **_):
        return self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens))

    @torch.inference_mode()
    def _loglikelihood_tokens(self, requests, **_):
        found = []
        for _, context, continuation in requests:
            ids = (context + continuation)[-(self.max_length + 1) :]
            weights = self.network(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
            weights = weights[-len(continuation) :]
            log_likelihood = sum(weights[i, token].item() for i, token in enumerate(continuation))
            found.append((log_likelihood, weights.argmax(-1).tolist() == continuation))
        return found

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        found = []
        for request in requests:
            ids, end = self.tok_encode(request.args[0]), [self.eot_token_id]
            cuts = get_rolling_token_windows(ids, end[0], self.max_length, 1)
            windows = [(None, *make_disjoint_window(cut)) for cut in cuts]
            found.append(sum(one for one, _ in self._loglikelihood_tokens(windows)))
        return found

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError


def by_lm_eval(bench, model, name):
    """lm-eval's results and logged samples."""
    task = load_task(str(bench / f"{name}.yaml"), bench / "data.jsonl")
    task.set_fewshot_seed(FEWSHOT_SEED)
    found = evaluate(Slow(model), {"tasks": {name: task}}, bootstrap_iters=0)
    results = {
        key: value
        for key, value in found["results"][name].items()
        if isinstance(value, float) and "," in key
    }
    return results, {entry["doc_id"]: entry for entry in found["samples"][name]}


@pytest.mark.parametrize("name", TASKS)
def test_numbers_are_those_of_lm_eval_itself(bench, tiny_model, tmp_path, name):
    requests, scores, metrics = evaluated(bench, tmp_path, tiny_model, name)
    results, logged = by_lm_eval(bench, tiny_model, name)
    assert metrics["lm_eval"] == pytest.approx(results)
    assert [row["id"] for row in scores] == [row["id"] for row in ROWS]
    answers = {
        (row["doc_id"], row["request"]): row
        for row in read_jsonl(tmp_path / "generations.jsonl.zst")
    }
    assert len(requests) == len(answers) == len(ROWS) * {"choices": 6}.get(name, 1)
    for (doc_id, request), row in answers.items():
        theirs = logged[doc_id]["resps"][request][0]
        log_likelihood, greedy = theirs if name != "text" else (theirs, row["is_greedy"])
        assert row["log_likelihood"] == pytest.approx(log_likelihood, rel=1e-4)
        assert row["is_greedy"] == greedy


def test_choices_are_right_or_wrong_by_accuracy(bench, tiny_model, tmp_path):
    _, scores, metrics = evaluated(bench, tmp_path, tiny_model, "choices")
    # `acc` decides, though `acc_norm` is the task's first metric; nothing was sampled.
    assert set(scores[0]) == {"doc_id", "id", "sample", "correct", "reason"}
    assert {row["reason"] for row in scores} == {"acc"}
    right = sum(row["correct"] for row in scores)
    assert 0 < right < len(scores)
    share = right / len(scores)
    assert metrics["accuracy"] == pytest.approx(share) == metrics["lm_eval"]["acc,none"]
    deviation = math.sqrt(share * (1 - share) / (len(scores) - 1))
    assert metrics["accuracy_se"] == pytest.approx(deviation)
    assert (metrics["problems"], metrics["samples"]) == (12, 1)
    assert not {"tokens_mean", "finished", "budgets", "loss"} & set(metrics)


def test_texts_have_a_loss_and_no_verdict(bench, tiny_model, tmp_path):
    requests, scores, metrics = evaluated(bench, tmp_path, tiny_model, "text")
    assert {row["correct"] for row in scores} == {None}
    assert "accuracy" not in metrics
    tokens = [sum(len(window[1]) for window in row["windows"]) for row in requests]
    assert max(len(row["windows"]) for row in requests) > 1  # the model has 512 positions
    assert [row["tokens_scored"] for row in scores] == tokens
    assert metrics["loss"] == pytest.approx(sum(row["loss"] for row in scores) / sum(tokens))
    assert metrics["loss_se"] > 0


def test_a_target_has_a_loss_and_a_verdict(bench, tiny_model, tmp_path, documented):
    _, scores, metrics = evaluated(bench, tmp_path, tiny_model, "target")
    assert scores[0].keys() <= documented("scores.jsonl.zst")
    assert metrics.keys() <= documented("metrics.json")
    perplexity = math.exp(sum(row["loss"] for row in scores) / len(scores))
    assert metrics["lm_eval"]["perplexity,none"] == pytest.approx(perplexity)
    assert metrics["accuracy"] == metrics["lm_eval"]["acc,none"]


def test_a_context_is_cut_at_its_beginning(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    whole = continuation_window(tokenizer, "one two three four five ", "six seven", 512)
    given, scored = continuation_window(tokenizer, "one two three four five ", "six seven", 6)
    assert scored == whole[1] and given == whole[0][-(7 - len(scored)) :]
    assert tokenizer.decode(scored) == " six seven"


def test_a_choice_that_is_empty_or_too_long_is_refused(bench, tiny_model, tmp_path):
    write_jsonl(tmp_path / "data.jsonl", [ROWS[0] | {"answer": "word " * 600}])
    output = tmp_path / "requests.jsonl.zst"
    task = str(bench / "target.yaml")
    with pytest.raises(RacError, match="problem 'p1'.*context holds 512"):
        build_requests(task, tmp_path / "data.jsonl", tiny_model, output)


def test_an_answer_that_is_no_choice_is_refused(bench, tiny_model, tmp_path):
    write_jsonl(tmp_path / "data.jsonl", [*ROWS, ROWS[0] | {"id": "odd", "answer": "two apples"}])
    with pytest.raises(
        RacError, match=r"problem 'odd', 'two apples', is none of its choices.*answer: null"
    ):
        build_requests(
            str(bench / "choices.yaml"), tmp_path / "data.jsonl", tiny_model, tmp_path / "requests"
        )


def test_answers_to_other_requests_are_refused(bench, tiny_model, tmp_path):
    evaluated(bench, tmp_path, tiny_model, "choices")
    (tmp_path / "generation.json").unlink()  # other rows than it is of follow
    evaluation = Eval(task=str(bench / "choices.yaml"), dataset="d")
    requests, generations = (
        tmp_path / file for file in ("requests.jsonl.zst", "generations.jsonl.zst")
    )
    outputs = tmp_path / "again.jsonl.zst", tmp_path / "again.json"
    rows = read_jsonl(generations)
    for odd in (rows[1:], [*rows, rows[0]]):
        write_jsonl(generations, odd)
        with pytest.raises(RacError, match="does not answer each request once"):
            score(evaluation, bench / "data.jsonl", requests, generations, *outputs)
    write_jsonl(generations, rows)
    write_jsonl(tmp_path / "data.jsonl", [*ROWS[:5], ROWS[5] | {"problem": "?"}, *ROWS[6:]])
    with pytest.raises(RacError, match=r"problem \d is not the one that was answered"):
        score(evaluation, tmp_path / "data.jsonl", requests, generations, *outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "row", "arguments", "gold"),
    [
        (
            "arc_easy",
            {
                "id": "Mercury_1",
                "question": "Which is hot?",
                "choices": {"text": ["ice", "fire"], "label": ["A", "B"]},
                "answerKey": "B",
            },
            [
                ["Question: Which is hot?\nAnswer:", " ice"],
                ["Question: Which is hot?\nAnswer:", " fire"],
            ],
            1,
        ),
        (  # its own code makes other rows of the dataset
            "hellaswag",
            {
                "ind": 4,
                "activity_label": "Baking",
                "ctx_a": "A man sits.",
                "ctx_b": "he",
                "endings": ["stands [step] up.", "flies."],
                "label": "0",
            },
            [["Baking: A man sits. He", " stands up."], ["Baking: A man sits. He", " flies."]],
            0,
        ),
        (
            "mmlu_anatomy",
            {
                "question": "Which is hot?",
                "choices": list("abcd"),
                "answer": 2,
                "subject": "anatomy",
            },
            None,
            2,
        ),
    ],
)
def test_tasks_of_lm_eval_take_rows_as_the_hub_has_them(
    tiny_model, tmp_path, task, row, arguments, gold
):
    files = [tmp_path / name for name in ("data.jsonl", "requests.jsonl.zst", "answers.jsonl.zst")]
    write_jsonl(files[0], [row])
    build_requests(task, files[0], tiny_model, files[1])
    requests = read_jsonl(files[1])
    if arguments:
        assert [request["arguments"] for request in requests] == arguments
    evaluation = Eval(task=task, dataset="d")
    for best in range(len(requests)):
        rows = [
            {key: request[key] for key in ("doc_id", "id", "request")}
            | {"log_likelihood": float(i == best), "is_greedy": False, "tokens": 1}
            for i, request in enumerate(requests)
        ]
        write_jsonl(files[2], rows)
        score(evaluation, *files, tmp_path / "scores.jsonl.zst", tmp_path / "metrics.json")
        (scored,) = read_jsonl(tmp_path / "scores.jsonl.zst")
        assert scored["correct"] == (best == gold) and scored["reason"] == "acc"


class Letters:
    """A tokenizer of letters that puts `^` (token 94) before a text, as Llama's does."""

    bos_token_id, eos_token_id = ord("^"), ord("$")

    def encode(self, text, add_special_tokens=True):
        return [self.bos_token_id] * add_special_tokens + [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


def test_the_token_that_begins_texts_comes_once():
    def said(context, continuation):
        return tuple(
            map(Letters().decode, continuation_window(Letters(), context, continuation, 99))
        )

    assert said("ab ", "c") == ("^ab", " c")
    assert said("^ab", "c") == ("^ab", "c")  # a template wrote it
    assert said("", "c") == ("^", "c")
    assert said("", "^c") == ("^", "c")
    windows = rolling_windows(Letters(), "abcde", 4)
    assert [tuple(map(Letters().decode, window)) for window in windows] == [
        ("^", "^abc"),
        ("abc", "de"),
    ]
