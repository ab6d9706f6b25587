import importlib.metadata
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import rac.evaluate
from rac.artifacts import read_json, read_jsonl, write_jsonl
from rac.definitions import Eval
from rac.errors import RacError
from rac.evaluate.requests import build_requests
from rac.evaluate.score import score, summarise

IDS = ["half", "seven", "ten"]
# (text, finish reason, tokens) of each problem's three samples; the prompt has opened the thought.
ANSWERS = [
    [
        (r"so</think>\boxed{\frac{1}{2}}", "stop", 10),
        (r"so</think>\boxed{2/4}", "stop", 20),
        (r"so \boxed{\frac{1}{2}}", "length", 100),
    ],
    [
        (r"so</think>\boxed{8}", "stop", 30),
        (r"so</think>\boxed{7} and so on", "length", 100),
        (r"so \boxed{7}", "stop", 40),
    ],
    [
        ("so</think><script>alert(1)</script>", "stop", 10),
        (r"so</think>" + r"\boxed{" * 20_000, "length", 100),
        (r"so</think>\boxed{__import__('os').system('touch pwned')}", "stop", 10),
    ],
]
VERDICTS = [  # correct, reason, finished
    [(True, "exact", True), (True, "equal", True), (False, "unfinished thought", False)],
    [(False, "different", True), (True, "exact", False), (False, "unfinished thought", False)],
    [(False, "no boxed answer", True), (False, "unfinished", False), (False, "different", True)],
]

VOTES = [
    ["\\frac{1}{2}", "2/4", None],
    ["8", "7", None],
    [None, None, "__import__('os').system('touch pwned')"],
]


def generations(samples=3):
    return [
        {
            "doc_id": doc_id,
            "id": IDS[doc_id],
            "sample": sample,
            "seed": 0,
            "token_ids": [1],
            "text": text,
            "characters": [2, 9, 20],  # of budgets of 12, 25 and 50 tokens
            "finish_reason": finish_reason,
            "tokens": tokens,
        }
        for doc_id in range(3)
        for sample, (text, finish_reason, tokens) in enumerate(ANSWERS[doc_id][:samples])
    ]


def scored(bench, folder, rows, samples=3, task="word_problems", data=None):
    write_jsonl(folder / "generations.jsonl.zst", rows)
    score(
        Eval(task=task, dataset="bench", samples=samples, max_new_tokens=100),
        data or bench / "data.jsonl",
        bench / "requests.jsonl.zst",
        folder / "generations.jsonl.zst",
        folder / "scores.jsonl.zst",
        folder / "metrics.json",
    )
    return read_jsonl(folder / "scores.jsonl.zst"), read_json(folder / "metrics.json")


def test_every_sample_has_its_verdict_and_the_metrics_follow(
    bench, tmp_path, monkeypatch, documented
):
    monkeypatch.chdir(tmp_path)
    rows, metrics = scored(bench, tmp_path, generations())
    assert rows[0].keys() <= documented("scores.jsonl.zst")
    assert metrics.keys() | metrics["budgets"][0].keys() <= documented("metrics.json")
    assert rows == [
        {
            "doc_id": doc_id,
            "id": IDS[doc_id],
            "sample": sample,
            "correct": correct,
            "reason": reason,
            "finished": finished,
            "tokens": ANSWERS[doc_id][sample][2],
            "looping": False,
            "answer": VOTES[doc_id][sample],
            "right_when_cut_at": [50] if (doc_id, sample) == (1, 1) else [],
        }
        for doc_id in range(3)
        for sample, (correct, reason, finished) in enumerate(VERDICTS[doc_id])
    ]
    assert metrics.pop("provenance")["inputs"]["eval"]["task"] == "word_problems"
    assert metrics.pop("sha256").keys() == {"scores.jsonl.zst"}
    assert len(metrics.pop("record_sha256")) == 64
    budgets = metrics.pop("budgets")
    assert [row["budget"] for row in budgets] == [12, 25, 50, 100]
    # Within 12 tokens one sample is right, within 25 two are. The third right one was cut at 100, and would
    # be right if cut at 50, after "so</think>\\boxed{7}"; 25 leave "so</think>" alone.
    assert [row["accuracy"] for row in budgets] == pytest.approx([1 / 9, 2 / 9, 1 / 3, 1 / 3])
    assert [row["finished"] for row in budgets] == pytest.approx([3 / 9, 4 / 9, 5 / 9, 5 / 9])
    assert [row["tokens_mean"] for row in budgets] == pytest.approx(
        [102 / 9, 175 / 9, 270 / 9, 420 / 9]
    )
    assert [row["tokens_per_solved"] for row in budgets] == [102, 87.5, 90, 140]
    # Per problem 2/3, 1/3 and 0 are correct; 2/3, 1/3 and 2/3 finished; 130/3, 170/3 and 40 tokens.
    assert metrics == {
        "problems": 3,
        "samples": 3,
        "accuracy": pytest.approx(1 / 3),
        "accuracy_se": pytest.approx(1 / 3 / math.sqrt(3)),
        "finished": pytest.approx(5 / 9),
        "finished_se": pytest.approx(1 / 9),
        "tokens_mean": pytest.approx(420 / 9),
        "tokens_mean_se": pytest.approx(math.sqrt(((-10) ** 2 + 30**2 + (-20) ** 2) / 9 / 2 / 3)),
        "tokens_median": 30,
        "tokens_p95": 100,
        "looping": 0,
        "looping_se": 0,
        "tokens_correct": pytest.approx(130 / 3),
        "tokens_wrong": pytest.approx(290 / 6),
        "tokens_per_solved": 140,
        # 1/2 and 2/4 are right and vote together; 8 and 7 have a vote each; nobody is right.
        "majority": pytest.approx((1 + 0.5 + 0) / 3),
        "majority_se": pytest.approx(0.5 / math.sqrt(3)),
        "reasons": {
            "exact": 2,
            "different": 2,
            "unfinished thought": 2,
            "equal": 1,
            "no boxed answer": 1,
            "unfinished": 1,
        },
        "lm_eval": {"correct,all": pytest.approx(1 / 3)},
    }
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        ([None, None, None, None], 0.0),  # a ruined model, which boxes nothing
        (["8", None, None, None], 0.0),
        (["7", "7", "8", None], 1.0),
        (["7", "8", "9", "9"], 0.0),
    ],
)
def test_a_majority_is_of_those_whose_answers_can_be_compared(answers, share):
    rows = [
        {"doc_id": 0, "correct": answer == "7", "finished": True, "looping": False, "tokens": 9}
        | {"answer": answer, "reason": "", "right_when_cut_at": []}
        for answer in answers
    ]
    assert summarise(rows, 100)["majority"] == share
    for row in rows:  # of a task that wants no box
        del row["answer"]
    assert summarise(rows, 100)["majority"] is None


def test_budgets_of_a_few_tokens_are_there_once():
    row = {"doc_id": 0, "correct": True, "finished": True, "looping": False, "tokens": 2}
    rows = [row | {"answer": "7", "reason": "", "right_when_cut_at": []}]
    assert [of["budget"] for of in summarise(rows, 4)["budgets"]] == [1, 2, 4]


def test_one_sample_of_one_problem_has_no_standard_error(bench, tmp_path, checkpoint):
    write_jsonl(tmp_path / "data.jsonl", read_jsonl(bench / "data.jsonl")[:1])
    evaluation = Eval(task="word_problems", dataset="bench")
    build_requests(
        evaluation.task, tmp_path / "data.jsonl", checkpoint, tmp_path / "requests.jsonl.zst"
    )
    _, metrics = scored(tmp_path, tmp_path, generations()[:1], samples=1)
    assert (metrics["accuracy"], metrics["accuracy_se"]) == (1, None)


def test_requests_that_changed_are_refused(bench, tmp_path):
    rows = read_jsonl(bench / "data.jsonl")
    rows[1]["problem"] = "What is 3+5?"
    write_jsonl(tmp_path / "data.jsonl", rows)
    with pytest.raises(
        RacError, match="problem 1 is not the one that was answered.*generate again"
    ):
        scored(bench, tmp_path, generations(), data=tmp_path / "data.jsonl")
    write_jsonl(tmp_path / "data.jsonl", read_jsonl(bench / "data.jsonl")[:2])
    with pytest.raises(RacError, match="other problems.*generate again"):
        scored(bench, tmp_path, generations(), data=tmp_path / "data.jsonl")
    assert not (tmp_path / "scores.jsonl.zst").exists()


def test_generations_that_are_not_those_asked_for_are_refused(bench, tmp_path):
    rows = generations()
    with pytest.raises(RacError, match="lacks 1 of 9 generations"):
        scored(bench, tmp_path, rows[:-1])
    with pytest.raises(RacError, match="lacks 3 of 12 generations"):
        scored(bench, tmp_path, rows, samples=4)
    with pytest.raises(RacError, match="sample 2 of problem 'half' answers no request"):
        scored(bench, tmp_path, rows, samples=2)
    with pytest.raises(RacError, match="one twice"):
        scored(bench, tmp_path, [*rows, rows[0]])
    with pytest.raises(RacError, match="problem 'other'"):
        scored(bench, tmp_path, [{**rows[0], "id": "other"}, *rows[1:]])


def test_a_task_of_lm_eval_sees_the_answer_after_the_thought(bench, tmp_path, checkpoint):
    """Its stop strings cut the answer, its metric decides, and an unfinished thought is wrong."""
    task = tmp_path / "task.yaml"
    task.write_text(
        "task: mine\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: '{{problem}}'\ndoc_to_target: '{{answer}}'\nrepeats: 5\n"
        'generation_kwargs: {until: ["\\n\\n"], do_sample: false}\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    rows = generations(samples=2)
    texts = [
        "7</think>\n\n\\frac{1}{2}\n\nDone",
        "x</think>1/2",
        "7",
        "8</think>7",
        "10",
        "</think>10",
    ]
    for row, text in zip(rows, texts, strict=True):
        row["text"] = text
        row["finish_reason"] = "stop"
    evaluation = Eval(task=str(task), dataset="bench", samples=2)
    build_requests(
        evaluation.task, bench / "data.jsonl", checkpoint, tmp_path / "requests.jsonl.zst"
    )
    scores, metrics = scored(
        tmp_path, tmp_path, rows, samples=2, task=str(task), data=bench / "data.jsonl"
    )
    assert [(row["correct"], row["reason"]) for row in scores] == [
        (True, "exact_match"),
        (False, "exact_match"),
        (False, "unfinished thought"),
        (True, "exact_match"),
        (False, "unfinished thought"),
        (True, "exact_match"),
    ]
    assert metrics["accuracy"] == metrics["lm_eval"]["exact_match,none"] == 0.5


@pytest.mark.slow
def test_math_verify_decides_where_a_task_has_it(tmp_path, checkpoint, monkeypatch):
    """minerva_math500's exact match wants "Final Answer: The final answer is $…$. I hope it is correct."."""
    # The task asks for this version at import, for a parser that it does not use.
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda package: "4.11.0" if package.startswith("antlr4") else installed(package),
    )
    golds = ["\\frac{1}{2}", "7", "10", "11", "12"]  # one is asked, and four are examples
    rows = [
        {"id": gold, "problem": "?", "answer": gold, "solution": f"It is $\\boxed{{{gold}}}$."}
        for gold in golds
    ]
    write_jsonl(tmp_path / "data.jsonl", rows)
    data, requests = tmp_path / "data.jsonl", tmp_path / "requests.jsonl.zst"
    build_requests("minerva_math500", data, checkpoint, requests)
    answers = [
        generations(samples=1)[0]
        | {"doc_id": i, "id": golds[i], "finish_reason": "stop"}
        | {"text": f"so</think>The answer is $\\boxed{{{said}}}$."}
        for i, said in enumerate(["1/2", "7", "11", "11", "12"])
    ]
    scores, metrics = scored(
        tmp_path, tmp_path, answers, samples=1, task="minerva_math500", data=data
    )
    assert [(row["correct"], row["reason"]) for row in scores] == [
        (True, "math_verify"),
        (True, "math_verify"),
        (False, "math_verify"),
        (True, "math_verify"),
        (True, "math_verify"),
    ]
    assert metrics["lm_eval"]["exact_match,none"] == 0


def test_a_task_that_never_looks_for_a_box_is_refused(bench, tmp_path):
    with pytest.raises(RacError, match=r"'hendrycks_math500' .* never for \\boxed: use 'math500'"):
        scored(bench, tmp_path, generations(), task="hendrycks_math500")


def test_few_shot_examples_are_other_problems_and_the_same_in_each_pass(tmp_path, checkpoint):
    data = tmp_path / "data.jsonl"
    rows = [
        {"id": f"p{i}", "question": f"What is {i} + {i}?", "answer": f"It is\n#### {2 * i}"}
        for i in range(7)
    ]
    write_jsonl(data, rows)
    evaluation = Eval(task="gsm8k", dataset="d", samples=2)
    build_requests(evaluation.task, data, checkpoint, tmp_path / "requests.jsonl.zst")
    for request, row in zip(read_jsonl(tmp_path / "requests.jsonl.zst"), rows, strict=True):
        asked = [m["content"] for m in request["messages"] if m["role"] == "user"]
        assert len(asked) == 6 and row["question"] in asked[-1]
        assert not any(row["question"] in shot for shot in asked[:-1])
    answers = [
        {
            "doc_id": i,
            "id": f"p{i}",
            "sample": sample,
            "token_ids": [1],
            "text": f"#### 99 </think>\n\n#### {2 * i + (sample and i % 2)}",
            "finish_reason": "stop",
            "tokens": 1,
        }
        for i in range(7)
        for sample in range(2)
    ]
    _, metrics = scored(tmp_path, tmp_path, answers, samples=2, task="gsm8k")
    assert metrics["majority"] is None  # nothing is boxed
    assert metrics["accuracy"] == pytest.approx(11 / 14)  # sample 1 is wrong for 1, 3 and 5
    assert metrics["lm_eval"] == {
        "exact_match,strict-match": pytest.approx(11 / 14),
        "exact_match,flexible-extract": pytest.approx(11 / 14),
    }


def test_a_metric_that_is_not_right_or_wrong_is_refused(bench, tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text(
        "task: mine\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: '{{problem}}'\ndoc_to_target: '{{answer}}'\n"
        "process_results: !function length.process_results\n"
        "metric_list: [{metric: length, aggregation: mean, higher_is_better: true}]\n"
    )
    (tmp_path / "length.py").write_text(
        "def process_results(doc, results):\n    return {'length': len(results[0])}\n"
    )
    with pytest.raises(RacError, match="by its metric 'length', which gave"):
        scored(bench, tmp_path, generations(), task=str(task))


@pytest.mark.parametrize(
    ("fails", "line"),
    [
        ("process_results", "the task 'mine' cannot grade problem 'seven': IndexError: no row"),
        ("grade", "the task 'mine' cannot grade answers: IndexError: no row"),
        ("total", "the task 'mine' cannot add up its metric 'right': IndexError: no row"),
    ],
)
def test_a_task_that_fails_is_one_line(bench, tmp_path, fails, line):
    task = tmp_path / "task.yaml"
    task.write_text(
        "task: mine\ntest_split: test\noutput_type: generate_until\n"
        "doc_to_text: '{{problem}}'\ndoc_to_target: '{{answer}}'\n"
        "process_results: !function own.process_results\n"
        "filter_list: [{name: all, filter: [{function: custom, filter_fn: !function own.grade}]}]\n"
        "metric_list: [{metric: right, aggregation: !function own.total, higher_is_better: true}]\n"
    )
    (tmp_path / "own.py").write_text(
        f"def fail(where, row='seven'):\n"
        f"    if (where, row) == ({fails!r}, 'seven'): raise IndexError('no\\nrow')\n"
        "def grade(responses, docs):\n    fail('grade')\n    return responses\n"
        "def process_results(doc, results):\n"
        "    fail('process_results', doc['id'])\n    return {'right': 1}\n"
        "def total(values):\n    fail('total')\n    return 1.0\n"
    )
    with pytest.raises(RacError) as caught:
        scored(bench, tmp_path, generations(), task=str(task))
    assert str(caught.value) == line


def test_scoring_imports_and_compiles_only_what_it_needs(bench, tmp_path):
    write_jsonl(tmp_path / "generations.jsonl.zst", generations())
    code = (
        "import sys; from pathlib import Path; from rac.definitions import Eval\n"
        "from rac.evaluate.score import score\n"
        "bench, out = map(Path, sys.argv[1:])\n"
        "score(Eval(task='word_problems', dataset='d', samples=3), bench / 'data.jsonl',\n"
        "      bench / 'requests.jsonl.zst', out / 'generations.jsonl.zst', out / 's.jsonl.zst',\n"
        "      out / 'm.json')\n"
        "heavy = {'torch', 'transformers', 'sympy', 'scipy', 'numpy.linalg', 'pandas'}\n"
        "assert not heavy & set(sys.modules)\n"
        "from lm_eval.utils import env\n"
        "compiled = env.from_string.cache_info()\n"
        "assert 0 < compiled.misses < 4 and compiled.hits > compiled.misses, compiled\n"
    )
    subprocess.run([sys.executable, "-c", code, str(bench), str(tmp_path)], check=True, timeout=60)


def test_what_lm_eval_is_spared_is_there_when_it_asks(tmp_path):
    rows = [{"id": "0", "problem": "a b", "choices": ["c d", "d c"], "answer": "c d"}]
    write_jsonl(tmp_path / "data.jsonl", rows)
    code = (
        "import sys; from pathlib import Path; from rac.evaluate.harness import instances, load_task\n"
        "task = load_task('word_order', Path(sys.argv[1]))\n"
        "assert 'numpy.linalg' not in sys.modules\n"
        "instances(task)\n"
        "found = task.process_results(task.instances[0].doc, [(-2.0, False), (-1.0, False)])\n"
        "assert found['acc'] == 0, found\n"
        "import numpy, lm_eval.api.task, lm_eval.utils\n"
        "assert lm_eval.utils.np.ndarray is numpy.ndarray\n"
        "assert lm_eval.api.task.np.array([1.0]).mean() == 1\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data.jsonl")]
    subprocess.run(command, check=True, timeout=60)


def without_network(*arguments):
    """Run a verb, which fails where it asks for an address or a connection."""
    code = (
        "import socket, sys\n"
        "def refuse(*asked, **more): raise SystemExit(f'the network was asked: {asked}')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from rac.__main__ import main\n"
        "main()\n"
    )
    environment = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_nothing_asks_the_hub(bench, tmp_path, checkpoint):
    # Tasks of lm-eval name a dataset of the hub; hellaswag's own code takes it apart.
    row = {"question": "1+1?", "answer": "#### 2", "activity_label": "a", "ctx_a": "b"}
    row |= {"ctx_b": "c", "endings": ["d", "e"], "label": "0"}
    write_jsonl(tmp_path / "data.jsonl", [row | {"ind": i} for i in range(6)])
    for task in ("gsm8k", "hellaswag"):
        given = ("--task", task, "--dataset", tmp_path / "data.jsonl", "--model", checkpoint)
        given += ("--chat", "{}")
        without_network("requests", *given, "--output", tmp_path / f"{task}.jsonl.zst")
        assert (
            len(read_jsonl(tmp_path / f"{task}.jsonl.zst")) == {"gsm8k": 6, "hellaswag": 12}[task]
        )
    write_jsonl(tmp_path / "generations.jsonl.zst", generations())
    evaluation = Eval(task="word_problems", dataset="d", samples=3, max_new_tokens=100)
    without_network(
        *("score", "--spec", evaluation.model_dump_json(), "--code", "f00d"),
        *("--dataset", bench / "data.jsonl"),
        *("--requests", bench / "requests.jsonl.zst"),
        *("--generations", tmp_path / "generations.jsonl.zst"),
        *("--scores", tmp_path / "scores.jsonl.zst", "--metrics", tmp_path / "metrics.json"),
    )
    assert len(read_jsonl(tmp_path / "scores.jsonl.zst")) == 9


def test_a_worked_solution_is_graded_by_the_answer_at_its_end(bench, checkpoint, tmp_path):
    rows = [
        {**row, "answer": f"Half of 9 is <<9/2=4.5>>4.5.\n#### {row['answer']}"}
        for row in read_jsonl(bench / "data.jsonl")
    ]
    write_jsonl(tmp_path / "data.jsonl", rows)
    requests = tmp_path / "requests.jsonl.zst"
    build_requests("gsm8k_boxed", tmp_path / "data.jsonl", checkpoint, requests)
    assert all(
        "put your final answer within \\boxed{}" in r["prompt"] for r in read_jsonl(requests)
    )
    of_gsm8k, metrics = scored(
        tmp_path, tmp_path, generations(), task="gsm8k_boxed", data=tmp_path / "data.jsonl"
    )
    of_plain, _ = scored(bench, tmp_path, generations())
    assert of_gsm8k == of_plain and metrics["problems"] == 3


@pytest.mark.slow
def test_the_task_files_work_on_lm_evals_own_command_line(bench, tmp_path):
    rows = [{**row, "answer": "7"} for row in read_jsonl(bench / "data.jsonl")]
    programs = [
        {
            "id": "0",
            "problem": "Double it.",
            "prompt": "def f(x):\n",
            "entry_point": "f",
            "code": "",
        }
        | {"test": "assert f(1) == 2", "test_imports": [], "test_list": ["assert f(1) == 2"]}
        | {"question_content": "Double it.", "starter_code": "", "public_test_cases": "[]"}
        | {"private_test_cases": "[]", "metadata": "{}", "tests": [{"input": "1", "output": "2"}]}
    ]
    of_code = ("humaneval-plus", "mbpp-plus", "livecodebench", "codeforces-test")
    order = [{"id": "0", "problem": "a b", "choices": ["c d", "d c"], "answer": "c d"}]
    data = dict.fromkeys(("problems-test", "math-500", "gsm8k"), rows) | {"word-order": order}
    defined = yaml.safe_load((Path(rac.__file__).parents[1] / "config.yaml").read_text())
    for name, of_name in (data | dict.fromkeys(of_code, programs)).items():
        assert name in defined["datasets"]  # so that what `dataset` makes is what they read
        write_jsonl(tmp_path / "resources" / "datasets" / name / "data.jsonl", of_name)
    tasks = Path(rac.evaluate.__file__).parent / "tasks"
    command = [sys.executable, "-m", "lm_eval", "run", "--include_path", str(tasks)]
    named = ["humaneval_plus", "mbpp_plus", "livecodebench", "codeforces"]
    listed = ",".join(["word_problems", "math500", "gsm8k_boxed", "word_order", *named])
    command += ["--tasks", listed, "--model", "dummy", "--output_path", "out"]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = read_json(file)["results"]
    for name in ("word_problems", "math500", "gsm8k_boxed"):
        assert results[name]["correct,all"] == 0  # the dummy model always says "lol"
        assert results[name]["reason,all"] == {"no boxed answer": 3}
    for name in named:  # an answer without a program needs no sandbox
        assert results[name]["correct,all"] == 0
        assert results[name]["reason,all"] == {"no code": 1}
    assert results["word_order"]["acc,none"] in (0, 1)


@pytest.mark.parametrize(
    ("changed", "record"),
    [
        ("data.jsonl", "meta.json"),
        ("requests.jsonl.zst", "requests.json"),
        ("generations.jsonl.zst", "generation.json"),
    ],
)
def test_rows_that_were_cut_are_refused(changed, record, bench, tmp_path, cut):
    write_jsonl(tmp_path / "generations.jsonl.zst", generations())
    for name in ("data.jsonl", "requests.jsonl.zst"):
        write_jsonl(tmp_path / name, read_jsonl(bench / name))
    cut(tmp_path / changed)
    names = ("data.jsonl", "requests.jsonl.zst", "generations.jsonl.zst", "scores.jsonl.zst")
    with pytest.raises(RacError, match=f"{changed} is not the file that its {record} was written"):
        score(
            Eval(task="word_problems", dataset="bench", samples=3),
            *(tmp_path / name for name in names),
            tmp_path / "metrics.json",
        )
    assert not (tmp_path / "scores.jsonl.zst").exists()
