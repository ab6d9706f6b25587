"""The vLLM engine: what it hands on and when, and (marked vllm) that it samples as the other engine does."""

import itertools
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import scipy.stats
import torch
from safetensors.torch import load_file, save_file

from rac import traces
from rac.artifacts import read_json, read_jsonl, write_json, write_jsonl
from rac.definitions import Model, Sampling, Source
from rac.engines import Completion, NotNumbers, Task, open_engine, sample_seed, version
from rac.engines import vllm as engine
from rac.errors import RacError
from rac.models import checkpoint
from rac.models.reasoner import WEIGHTS, problems
from rac.provenance import hashes, write_record

# Without vLLM: a stand-in for its engine


class Engine:
    """Each sample echoes its prompt and seed, and takes as many steps as its prompt's first token says."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None):
        self.left: dict[str, list] = {}
        self.steps, self.most, self.fails_at, self.error = 0, 0, fails_at, error
        self.aborted: list[str] = []

    def add_request(self, name, token_ids, seed):
        self.left[name] = [token_ids[0], token_ids, seed]
        self.most = max(self.most, len(self.left))

    def get_num_unfinished_requests(self):
        return len(self.left)

    def has_unfinished_requests(self):
        return bool(self.left)

    def abort_request(self, names):
        self.aborted += [name for name in names if self.left.pop(name, None)]

    def step(self):
        self.steps += 1
        if self.steps == self.fails_at:
            raise self.error
        ended = []
        for name, (wait, token_ids, seed) in list(self.left.items()):
            self.left[name][0] -= 1
            if wait == 1:
                answer = SimpleNamespace(token_ids=(*token_ids, seed), finish_reason="stop")
                ended.append(SimpleNamespace(request_id=name, outputs=[answer], finished=True))
                del self.left[name]
        return ended


SAMPLES = {i: ([steps, 100 + i], i) for i, steps in enumerate([5, 1, 3, 2, 2, 4])}
ANSWERS = {i: Completion([*token_ids, seed], "stop") for i, (token_ids, seed) in SAMPLES.items()}


def finished(stand_in, batch, alive=lambda: None):
    return engine.finished(
        stand_in, SAMPLES, lambda token_ids, seed: (token_ids, seed), batch, alive
    )


@pytest.mark.parametrize("batch", [1, 2, 6, 100])
def test_every_sample_is_handed_on_once_and_no_more_are_in_work_than_asked(batch, monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0)
    stand_in = Engine()
    groups = list(finished(stand_in, batch))
    flat = [pair for group in groups for pair in group]
    assert len(flat) == len(SAMPLES) and dict(flat) == ANSWERS
    assert stand_in.most == min(batch, len(SAMPLES))
    if batch == 6:
        assert [sorted(i for i, _ in group) for group in groups] == [[1], [3, 4], [2], [5], [0]]


def test_what_finishes_within_seconds_is_one_group(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 1)
    clock = itertools.count(
        step=0.4
    )  # read at the start, after a step that left some, after a group
    monkeypatch.setattr(engine.time, "monotonic", lambda: next(clock))
    groups = [[i for i, _ in group] for group in finished(Engine(), 6)]
    assert groups == [[1, 3, 4, 2], [5, 0]]


def test_an_engine_is_idle_after_a_reader_that_had_enough(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0)
    stand_in = Engine()
    reader = finished(stand_in, 4)
    assert [i for i, _ in next(reader)] == [1]
    reader.close()
    assert stand_in.aborted == ["0", "2", "3"] and not stand_in.left


TASK = Task(Path("model"), "float32", Sampling(), 8, 4, 6)


@pytest.fixture
def loads(monkeypatch):
    """What loading gives, in turn: engines or errors; and whether the batch was halved, each time."""
    given: list[Engine | Exception] = []
    halved: list[bool] = []

    def load(task, half):
        halved.append(half)
        found = given.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(engine, "version", lambda name: "0.32.0")
    monkeypatch.setattr(engine, "requests", lambda task: lambda token_ids, seed: (token_ids, seed))
    monkeypatch.setattr(engine, "_load", load)
    monkeypatch.setattr(engine, "_free", lambda: None)
    monkeypatch.setattr(engine, "ENVIRONMENT", {})
    monkeypatch.setattr(engine, "SECONDS", 0)
    return given, halved


def answers():
    """All samples by an opened engine, each asserted to come once."""
    prompts, seeds = zip(*SAMPLES.values(), strict=True)
    counts: list[int] = []
    flat = [
        pair
        for group in engine.open_engine(TASK)(list(prompts), list(seeds), counts.append)
        for pair in group
    ]
    assert len(flat) == len(SAMPLES) == sum(count > 0 for count in counts)  # 0: alive
    assert sum(counts) == sum(len(completion.token_ids) for _, completion in flat)
    return dict(flat)


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("Worker failed with error 'CUDA out of memory'"),
    ValueError("No available memory for the cache blocks. Try increasing …"),
    ValueError("… is needed, which is larger than the available KV cache memory (1 GiB)."),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=range(len(SHORTAGES)))
@pytest.mark.parametrize("when", ["loading", "later"])
def test_short_memory_halves_the_batch_once_out_loud_and_loses_no_sample(
    loads, capsys, error, when
):
    given, halved = loads
    given += [error if when == "loading" else Engine(3, error), Engine()]
    drawn = answers()
    assert {i: answer._replace(halvings=0) for i, answer in drawn.items()} == ANSWERS
    after = sum(answer.halvings for answer in drawn.values())
    assert after == len(ANSWERS) if when == "loading" else 0 < after < len(ANSWERS)
    assert halved == [False, True]
    said = capsys.readouterr().err
    assert said.startswith("vLLM: memory is short, so the batch is halved (")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "given",
    [
        [SHORTAGES[0], SHORTAGES[0]],
        [Engine(2, SHORTAGES[0]), Engine(1, SHORTAGES[0])],
        [ValueError("no such model\nat all")],
        [Engine(1, RuntimeError("not implemented for 'Float'"))],
    ],
)
def test_any_other_trouble_and_a_second_shortage_are_one_line(loads, given):
    loads[0].extend(given)
    with pytest.raises(RacError, match="vLLM cannot run model: .*'engine: transformers'") as error:
        answers()
    assert "\n" not in str(error.value)
    assert not loads[0]


@pytest.mark.parametrize(
    "said",
    [
        "NaNs detected in logits: {'4-8f0e12ab': 706, '5-00aa11bb': 706}",
        "Worker failed with error 'NaNs detected in logits: {'4-8f0e12ab': 1}', please check …",
    ],
)
def test_a_sample_whose_logits_are_not_numbers_is_named(loads, said):
    loads[0].append(Engine(2, RuntimeError(said)))
    with pytest.raises(NotNumbers) as error:
        answers()
    assert error.value.index == 4 and not loads[0]


def test_without_vllm_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(engine, "version", lambda name: None)
    with pytest.raises(RacError, match="vLLM is not installed .* 'engine: transformers'"):
        open_engine("vllm", TASK)


# With vLLM

with_vllm = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(version("vllm") is None, reason="vLLM is not installed in this Python"),
]


def marked(test):
    for mark in with_vllm:
        test = mark(test)
    return test


PROBLEMS = problems.generate("validation", 16)
SEEDS = [sample_seed(row["id"], 0, 0) for row in PROBLEMS]
GREEDY = Sampling(temperature=0.6, top_p=1e-6)  # the nucleus is one token


@pytest.fixture(scope="module")
def prompts():
    chats = [[{"role": "user", "content": row["problem"]}] for row in PROBLEMS]
    tokenizer = checkpoint.load_tokenizer(WEIGHTS)
    return tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=False)


def sample(name, prompts, seeds=SEEDS, sampling=Sampling(), folder=WEIGHTS, new=200, batch=16):  # noqa: B008
    """Completions of the reasoner, by the order of prompts."""
    task = Task(folder, "float32", sampling, new, max(map(len, prompts)), batch)
    groups = open_engine(name, task)(prompts, seeds[: len(prompts)], lambda tokens: None)
    flat = [pair for group in groups for pair in group]
    assert len(flat) == len(prompts)
    return [completion for _, completion in sorted(flat)]


@marked
def test_the_most_probable_tokens_are_those_of_the_other_engine(prompts):
    found = sample("vllm", prompts, sampling=GREEDY)
    assert found == sample("transformers", prompts, sampling=GREEDY)
    assert Counter(answer.finish_reason for answer in found).keys() == {"stop", "length"}
    assert all(answer.token_ids[-1] == 2 for answer in found if answer.finish_reason == "stop")
    cut = [answer.token_ids for answer in found if answer.finish_reason == "length"]
    assert all(len(ids) == 200 for ids in cut)


@marked
def test_a_sample_hangs_on_its_seed_and_not_on_its_batch(prompts):
    hot = Sampling(temperature=1.5, top_p=1)
    together = sample("vllm", prompts, sampling=hot)
    assert sample("vllm", prompts, sampling=hot, batch=3) == together
    assert sample("vllm", prompts[::-1], SEEDS[::-1], hot) == together[::-1]
    other = sample("vllm", prompts, [seed + 1 for seed in SEEDS], hot)
    assert all(a != b for a, b in zip(together, other, strict=True))


@marked
def test_draws_follow_the_nucleus(random_qwen2, save_model, tmp_path):
    n, prompt, sampling = 4000, [5, 9, 12], Sampling(temperature=1.3, top_p=0.8)
    sizes = {"hidden_size": 128, "intermediate_size": 128}  # vLLM has no kernels for heads of 8
    model = random_qwen2(**sizes, initializer_range=0.1)
    folder = save_model(model, tmp_path / "m")
    found = sample("vllm", [prompt] * n, list(range(n)), sampling, folder, new=1, batch=n)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt])).logits[0, -1].double()
    probabilities, order = (logits / sampling.temperature).softmax(-1).sort(descending=True)
    kept = probabilities.cumsum(-1) - probabilities < sampling.top_p
    expected = dict(zip(order[kept].tolist(), probabilities[kept].tolist(), strict=True))
    counts = Counter(answer.token_ids[0] for answer in found)
    assert counts.keys() <= expected.keys() and len(expected) > 5
    total = sum(expected.values())
    wanted = {token: n * p / total for token, p in expected.items()}
    likely = [token for token, count in wanted.items() if count >= 5]
    rest = [n - sum(values[t] for t in likely) for values in (counts, wanted)]
    seen, due = ([values[t] for t in likely] for values in (counts, wanted))
    assert scipy.stats.chisquare([*seen, rest[0]], [*due, rest[1]]).pvalue > 1e-3


@marked
def test_stop_tokens_are_those_of_the_checkpoint(prompts, tmp_path):
    free = sample("vllm", prompts[:2], sampling=GREEDY)
    stop = free[0].token_ids[20]
    folder = tmp_path / "m"
    shutil.copytree(WEIGHTS, folder)
    write_json(folder / "generation_config.json", {"eos_token_id": [stop]})
    found = sample("vllm", prompts[:2], sampling=GREEDY, folder=folder)
    assert found == sample("transformers", prompts[:2], sampling=GREEDY, folder=folder)
    ids = free[0].token_ids
    assert found[0] == Completion(ids[: ids.index(stop) + 1], "stop")


@marked
def test_an_engine_that_ran_out_of_memory_is_opened_again_and_goes_on(prompts, monkeypatch, capsys):
    from vllm import LLMEngine

    unbroken, step, steps = sample("vllm", prompts), LLMEngine.step, itertools.count()

    def short(self):
        if next(steps) == 150:  # some have finished
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self)

    monkeypatch.setattr(LLMEngine, "step", short)
    monkeypatch.setattr(engine, "SECONDS", 0)
    found = sample("vllm", prompts)
    assert [answer._replace(halvings=0) for answer in found] == unbroken
    assert {answer.halvings for answer in found} == {0, 1}
    assert "the batch is halved (CUDA out of memory.)" in capsys.readouterr().err


@marked
def test_too_little_memory_for_one_sample_is_one_line(prompts, monkeypatch, capsys):
    monkeypatch.setattr(engine, "_cpu_cache", lambda *sizes: 10_000)
    with pytest.raises(RacError, match="No available memory for the cache blocks"):
        sample("vllm", prompts)
    assert "halved" in capsys.readouterr().err


@marked
def test_what_does_not_fit_the_context_is_one_line(prompts):
    with pytest.raises(RacError, match=r"max_new_tokens 1000 do not fit .* 1024 tokens"):
        sample("vllm", prompts, new=1000)


@marked
def test_logits_that_are_not_numbers_name_the_prompt(prompts, tmp_path):
    """Of a token that is in no prompt, and that one answer comes to well before any other."""
    answers = [answer.token_ids for answer in sample("vllm", prompts, sampling=GREEDY)]
    places = {
        token: sorted((ids.index(token), i) for i, ids in enumerate(answers) if token in ids[:-1])
        for token in {*itertools.chain(*answers)} - {*itertools.chain(*prompts)}
    }
    token, own = next(
        (token, found[0][1])
        for token, found in places.items()
        if found and found[0][0] > 5 and (len(found) == 1 or found[1][0] > found[0][0] + 3)
    )
    folder = tmp_path / "m"
    shutil.copytree(WEIGHTS, folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"tie_word_embeddings": False})
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.embed_tokens.weight"][token] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(NotNumbers) as error:
        sample("vllm", prompts, sampling=GREEDY, folder=folder)
    assert error.value.index == own
    sound = [i for i, ids in enumerate(answers) if token not in ids[:-1]]
    found = sample("vllm", [prompts[i] for i in sound], sampling=GREEDY, folder=folder)
    assert sound and [answer.token_ids for answer in found] == [answers[i] for i in sound]


@marked
def test_a_prefix_that_samples_share_is_computed_once(prompts, monkeypatch):
    from vllm import LLMEngine

    step, cached = LLMEngine.step, []

    def recorded(self):
        outputs = step(self)
        cached.extend(output.num_cached_tokens for output in outputs if output.finished)
        return outputs

    monkeypatch.setattr(LLMEngine, "step", recorded)
    long = sum(prompts, [])[:300]
    sample("vllm", [long] * 3, new=4, batch=1)
    assert cached == [0, 256, 256]  # whole pages


DEFINITION = Source.model_validate(
    {"kind": "traces", "dataset": "d", "tokens": 1500, "max_new_tokens": 300, "batch": 4}
)
MODEL = Model.model_validate({"embedded": "reasoner", "dtype": "float32"})


def write_traces(output):
    """Traces of the reasoner by vLLM."""
    write_jsonl(output.parent / "data.jsonl", PROBLEMS)
    data, folder = output.parent / "data.jsonl", output.parent / "model"
    if not folder.exists():
        shutil.copytree(WEIGHTS, folder)
        write_record(folder / "model.json", {"weights_sha256": "0"} | hashes(folder))
    asked = traces.Asked(DEFINITION, "traces", MODEL, folder, data, "vllm", 1, "c")
    traces.write_traces(asked, output)
    return read_jsonl(output)


@marked
def test_two_devices_that_share_the_layers_sample_as_one(tmp_path):
    alone = write_traces(tmp_path / "a" / "t.jsonl.zst")
    output = tmp_path / "b" / "t.jsonl.zst"
    options = {
        "--spec": DEFINITION.model_dump_json(),
        "--name": "traces",
        "--model-spec": MODEL.model_dump_json(),
        "--model": tmp_path / "a" / "model",
        "--dataset": tmp_path / "a" / "data.jsonl",
        "--engine": "vllm",
        "--tensor-parallel": 2,
        "--code": "c",
        "--output": output,
    }
    given = [str(part) for option in options.items() for part in option]
    done = subprocess.run(
        [sys.executable, "-m", "rac", "traces", *given], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert read_jsonl(output) == alone


@marked
def test_a_killed_stage_keeps_what_had_finished_and_draws_the_same_samples(tmp_path, kill_at):
    unbroken = write_traces(tmp_path / "a" / "t.jsonl.zst")
    made = read_json(tmp_path / "a" / "info.json")["provenance"]["inputs"]["engine"]
    assert made == f"vllm {version('vllm')}"
    broken = tmp_path / "b" / "t.jsonl.zst"
    script = f"""
    import sys, time
    sys.path[:0] = {sys.path!r}
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from rac.engines import vllm as engine
    engine.SECONDS = 0
    handed = engine.finished
    def slow(*arguments):
        for group in handed(*arguments):
            yield group
            time.sleep(1)
    engine.finished = slow
    import importlib.util
    spec = importlib.util.spec_from_file_location("tests_vllm", {__file__!r})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_traces(Path({str(broken)!r}))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    part = kill_at(broken.parent / "work", "part-00001-*.zst", process)
    assert not broken.exists()
    stored = [row["id"] for row in read_jsonl(part)]
    drawn = []
    with pytest.MonkeyPatch.context() as patched:
        request = engine.requests
        patched.setattr(
            engine,
            "requests",
            lambda task: lambda ids, seed: (drawn.append(seed), request(task)(ids, seed))[1],
        )
        assert write_traces(broken) == unbroken
    assert stored and not {sample_seed(name, 0, 0) for name in stored} & set(drawn)
