"""The batched engine against a loop of one sample at a time without a cache, and the nucleus."""

import shutil

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from rac.artifacts import write_json
from rac.definitions import Sampling
from rac.engines import Completion, NotNumbers, Task
from rac.engines import transformers as engine
from rac.engines.transformers import GrowingLayer, generate, grouped_sdpa, sample
from rac.errors import RacError

SAMPLING = Sampling(temperature=1.0, top_p=0.9)
PROMPTS = [[5, 9, 12], [7], [30, 31, 32, 33, 34, 35, 36], [700, 4], [8, 8, 8, 8]]
SEEDS = [11, 12, 13, 14, 15]


@pytest.fixture(scope="module")
def model(random_qwen2):
    model = random_qwen2(seed=3)
    model.set_attn_implementation("grouped_sdpa")
    return model


def nucleus(logits: list[float], sampling: Sampling) -> dict[int, float]:
    """Token → probability by the definition, in float64; ties in the order of tokens."""
    weights = torch.tensor(logits, dtype=torch.float64).div(sampling.temperature).softmax(-1)
    order = sorted(range(len(logits)), key=lambda token: (-weights[token].item(), token))
    if sampling.top_k and sampling.top_k < len(order):
        least = weights[order[sampling.top_k - 1]]
        weights = torch.where(weights < least, 0, weights)
        weights = weights / weights.sum()
        order = [token for token in order if weights[token] > 0]
    kept: dict[int, float] = {}
    for token in order:
        if sum(kept.values()) >= sampling.top_p:
            break
        kept[token] = weights[token].item()
    return {token: weight / sum(kept.values()) for token, weight in kept.items()}


def draw(logits: list[float], uniform: float, sampling: Sampling) -> int:
    passed = 0.0
    for token, probability in nucleus(logits, sampling).items():
        passed += probability
        if passed > uniform:
            return token
    return token


@torch.inference_mode()
def slow(model, stop, prompt, seed, sampling, max_new_tokens) -> tuple[list[int], str]:
    """One sample, the whole sequence through the stock model at each step."""
    uniforms = torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(seed)).tolist()
    ids: list[int] = []
    for uniform in uniforms:
        logits = model(torch.tensor([prompt + ids]), use_cache=False).logits[0, -1].tolist()
        ids.append(draw(logits, uniform, sampling))
        if ids[-1] in stop:
            return ids, "stop"
    return ids, "length"


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_batch_equals_one_sample_at_a_time_without_cache(random_qwen2, kv_heads):
    fast, stock = (random_qwen2(seed=kv_heads, num_key_value_heads=kv_heads) for _ in range(2))
    fast.set_attn_implementation("grouped_sdpa")
    stop = list(range(0, 40))  # so that some samples stop and others do not
    batch = generate(fast, stop, PROMPTS, SEEDS, SAMPLING, 24)
    single = [slow(stock, stop, p, s, SAMPLING, 24) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert [completion[:2] for completion in batch] == single
    assert len({completion.finish_reason for completion in batch}) == 2


def test_the_same_seeds_give_the_same_tokens_and_others_do_not(model):
    first, again = (generate(model, [2], PROMPTS, SEEDS, SAMPLING, 12) for _ in range(2))
    assert first == again
    other = generate(model, [2], PROMPTS, [seed + 100 for seed in SEEDS], SAMPLING, 12)
    assert all(a.token_ids != b.token_ids for a, b in zip(first, other, strict=True))


def test_a_sample_does_not_hang_on_what_shares_its_batch(model):
    together = generate(model, [2], PROMPTS, SEEDS, SAMPLING, 12)
    for i, prompt in enumerate(PROMPTS):
        assert generate(model, [2], [prompt], [SEEDS[i]], SAMPLING, 12) == [together[i]]
    backwards = generate(model, [2], PROMPTS[::-1], SEEDS[::-1], SAMPLING, 12)
    assert backwards == together[::-1]


def test_finished_samples_leave_the_batch(model):
    stop = list(range(0, 200))
    sizes: list[int] = []
    done = generate(model, stop, PROMPTS, SEEDS, SAMPLING, 30, sizes.append)
    assert all(completion.finish_reason == "stop" for completion in done)
    lengths = [len(completion.token_ids) for completion in done]
    assert sizes == [sum(n > step for n in lengths) for step in range(max(lengths))]
    assert sizes[0] > sizes[-1]


def test_a_stop_token_ends_a_sample_and_is_its_last_token(model):
    free = generate(model, [], PROMPTS, SEEDS, SAMPLING, 10)
    assert [len(completion.token_ids) for completion in free] == [10] * len(PROMPTS)
    assert {completion.finish_reason for completion in free} == {"length"}
    stop = free[0].token_ids[4]
    stopped = generate(model, [stop], PROMPTS, SEEDS, SAMPLING, 10)[0]
    end = free[0].token_ids.index(stop) + 1
    assert stopped == Completion(free[0].token_ids[:end], "stop")


def test_a_stop_token_as_the_last_allowed_token_is_a_stop(model):
    free = generate(model, [], PROMPTS[:1], SEEDS[:1], SAMPLING, 6)[0].token_ids
    last = next(n for n in range(1, 7) if free[n - 1] not in free[: n - 1])
    done = generate(model, [free[last - 1]], PROMPTS[:1], SEEDS[:1], SAMPLING, last)
    assert done == [Completion(free[:last], "stop")]


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1.3, top_p=0.7), Sampling(temperature=2, top_k=4)]
)
@pytest.mark.parametrize("vocabulary", [6, 200])
def test_draws_follow_the_nucleus(sampling, vocabulary):
    n = 20_000
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 2
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(0))
    tokens = sample(logits.expand(n, -1), uniforms, sampling)
    expected = nucleus(logits.tolist(), sampling)
    counts = torch.bincount(tokens, minlength=vocabulary)
    assert set(counts.nonzero().flatten().tolist()) <= set(expected)
    wanted = {token: probability * n for token, probability in expected.items()}
    likely = [token for token, count in wanted.items() if count >= 5]
    seen = [int(counts[token]) for token in likely]
    rest = n - sum(wanted[token] for token in likely)
    if rest > 1e-6:
        seen, likely_counts = [*seen, n - sum(seen)], [*(wanted[t] for t in likely), rest]
    else:
        likely_counts = [wanted[token] for token in likely]
    assert scipy.stats.chisquare(seen, likely_counts).pvalue > 1e-3
    # Evenly spaced uniform numbers leave nothing to chance: counts are right up to rounding.
    even = sample(logits.expand(n, -1), (torch.arange(n) + 0.5) / n, sampling)
    exact = torch.bincount(even, minlength=vocabulary).tolist()
    assert all(abs(exact[token] - wanted.get(token, 0)) < 2 for token in range(vocabulary))


@given(
    levels=st.lists(st.integers(-12, 12), min_size=2, max_size=90),
    uniform=st.integers(0, 997).map(lambda i: (i + 0.37) / 998),
    top_p=st.sampled_from([0.317, 0.713, 0.95, 1.0]),
)
@settings(max_examples=150)
def test_a_draw_is_the_one_of_the_definition_ties_included(levels, uniform, top_p):
    sampling = Sampling(temperature=0.6, top_p=top_p)
    logits = [level / 3 for level in levels]
    token = sample(torch.tensor([logits]), torch.tensor([uniform]), sampling).item()
    near = {draw(logits, uniform + shift, sampling) for shift in (-1e-5, 0, 1e-5)}
    assert token in near  # float32 against float64 may part at a border


def test_few_tokens_and_the_full_sort_draw_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(300, 500, generator=generator) * 4).bfloat16().float()  # many ties
    uniforms = torch.rand(300, generator=generator)
    sampling = Sampling(temperature=0.7, top_p=0.9)
    full_sorts = []
    whole_sort = torch.Tensor.sort

    def counted(self, *arguments, **keywords):
        full_sorts.append(self.shape[-1] == 500)
        return whole_sort(self, *arguments, **keywords)

    monkeypatch.setattr(torch.Tensor, "sort", counted)
    few = [
        sample(row[None], u[None], sampling).item() for row, u in zip(logits, uniforms, strict=True)
    ]
    assert not any(full_sorts)
    monkeypatch.setattr(engine, "FEW", 1)
    assert sample(logits, uniforms, sampling).tolist() == few
    assert any(full_sorts)


def test_ties_do_not_make_a_sample_hang_on_a_neighbour_that_needs_the_full_sort():
    generator = torch.Generator().manual_seed(0)
    peaked = torch.randint(0, 12, (50, 400), generator=generator).float()
    flat = torch.zeros(1, 400)
    uniforms = torch.rand(51, generator=generator)
    sampling = Sampling(temperature=0.5, top_p=0.9)
    alone = [sample(peaked[i : i + 1], uniforms[i : i + 1], sampling).item() for i in range(50)]
    assert sample(torch.cat([peaked, flat]), uniforms, sampling)[:50].tolist() == alone


@pytest.mark.parametrize("vocabulary", [5, 64, 65, 1000])
@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_borders(vocabulary, uniform):
    u = torch.tensor([uniform])
    dominant = torch.zeros(1, vocabulary)
    dominant[0, 3] = 100
    assert sample(dominant, u, Sampling()).item() == 3
    assert sample(dominant, u, Sampling(top_p=1)).item() == 3
    flat = torch.zeros(1, vocabulary)
    everything = sample(flat, u, Sampling(top_p=1)).item()
    assert everything == pytest.approx(int(uniform * vocabulary), abs=1)
    assert 0 <= everything < vocabulary
    smallest = Sampling(top_p=1e-6)
    assert sample(flat, u, smallest).item() == 0
    forbidden = torch.full((1, vocabulary), -torch.inf)
    forbidden[0, [1, 4]] = 0
    assert sample(forbidden, u, Sampling(top_p=1)).item() == (1 if uniform < 0.5 else 4)


def test_logits_that_are_not_numbers_are_one_line():
    logits = torch.zeros(3, 100)
    logits[1, 7] = torch.nan
    with pytest.raises(NotNumbers, match="not numbers") as error:
        sample(logits, torch.zeros(3), Sampling())
    assert error.value.index == 1


@pytest.mark.parametrize("batches", [[4, 4, 4], [4, 2, 1]])
def test_a_growing_cache_holds_what_was_appended(batches, monkeypatch):
    monkeypatch.setattr(engine, "GROWTH", 3)
    layer = GrowingLayer()
    generator = torch.Generator().manual_seed(0)
    expected = torch.empty(batches[0], 2, 0, 5)
    for batch in batches:
        expected = expected[:batch]
        if layer.is_initialized:
            layer.batch_select_indices(torch.arange(batch))
        for new_tokens in (7, 1, 1, 1, 1, 1, 2, 1):
            new = torch.randn(batch, 2, new_tokens, 5, generator=generator)
            expected = torch.cat([expected, new], dim=-2)
            keys, values = layer.update(new, -new)
            assert torch.equal(keys, expected)
            assert torch.equal(values, -expected)
            assert layer.get_seq_length() == expected.shape[-2]


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("queries", [1, 3])
def test_grouped_attention_equals_attention_written_out(heads, kv_heads, queries):
    generator = torch.Generator().manual_seed(heads + kv_heads)
    batch, past, size = 3, 9, 8
    query = torch.randn(batch, heads, queries, size, generator=generator)
    key, value = (torch.randn(batch, kv_heads, past, size, generator=generator) for _ in range(2))
    mask = torch.rand(batch, 1, queries, past, generator=generator) < 0.7
    mask[..., 0] = True
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = heads // kv_heads, True
    out, _ = grouped_sdpa(module, query, key, value, mask, scaling=0.3)
    k, v = (t.double().repeat_interleave(heads // kv_heads, dim=1) for t in (key, value))
    scores = (query.double() @ k.transpose(-1, -2) * 0.3).masked_fill(~mask, -torch.inf)
    expected = (scores.softmax(-1) @ v).transpose(1, 2)
    assert out.shape == (batch, queries, heads, size)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def opened(folder, batch, max_new_tokens=8):
    """An opened checkpoint: a function (prompts, seeds, progress) → groups."""
    return engine.open_engine(Task(folder, "float32", SAMPLING, max_new_tokens, 7, batch))


def test_an_opened_checkpoint_generates_until_its_own_stop_tokens(tiny_model, tmp_path):
    [free] = opened(tiny_model, 5)(PROMPTS, SEEDS, lambda tokens: None)
    assert [i for i, _ in free] == [0, 1, 2, 3, 4]
    ids = free[0][1].token_ids
    stop = ids[2]
    folder = tmp_path / "m"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("model.json"))
    write_json(folder / "generation_config.json", {"eos_token_id": [2, stop]})
    steps: list[int] = []
    [stopped] = opened(folder, 5)(PROMPTS, SEEDS, steps.append)
    assert stopped[0] == (0, Completion(ids[: ids.index(stop) + 1], "stop"))
    assert sum(steps) == sum(len(completion.token_ids) for _, completion in stopped)


def test_chunks_follow_the_order_of_prompts_and_the_last_is_what_is_left(tiny_model, monkeypatch):
    batches: list[list[list[int]]] = []

    def counted(model, stop, prompts, *rest):
        batches.append(prompts)
        return generate(model, stop, prompts, *rest)

    monkeypatch.setattr(engine, "generate", counted)
    groups = opened(tiny_model, 2)(PROMPTS, SEEDS, lambda tokens: None)
    first = next(groups)
    assert batches == [PROMPTS[:2]]  # no chunk before it is asked for
    assert [[i for i, _ in group] for group in (first, *groups)] == [[0, 1], [2, 3], [4]]
    assert batches == [PROMPTS[:2], PROMPTS[2:4], PROMPTS[4:]]


def test_what_does_not_fit_the_context_is_one_line(tiny_model):
    with pytest.raises(RacError, match=r"a prompt of 7 tokens .* 506 do not fit .* 512 tokens"):
        next(opened(tiny_model, 5, 506)(PROMPTS, SEEDS, lambda tokens: None))


@pytest.mark.parametrize("limit", [5, 2])  # the second one is halved
def test_the_prompt_whose_logits_are_not_numbers_is_known(
    random_qwen2, save_model, tmp_path, monkeypatch, limit
):
    broken = random_qwen2(seed=3, tie_word_embeddings=False)
    broken.model.embed_tokens.weight.data[77] = torch.nan

    def short(model, stop, prompts, *others):
        if len(prompts) > limit:
            raise torch.OutOfMemoryError("no memory for this")
        return generate(model, stop, prompts, *others)

    monkeypatch.setattr(engine, "generate", short)
    run = opened(save_model(broken, tmp_path / "m"), 3, 1)
    groups = run([*PROMPTS[:4], [9, 77, 4], [5]], range(6), lambda tokens: None)
    assert [i for i, _ in next(groups)] == [0, 1, 2]
    with pytest.raises(NotNumbers) as error:
        next(groups)
    assert error.value.index == 4


def test_a_chunk_that_memory_is_short_for_is_generated_in_halves(tiny_model, monkeypatch, capsys):
    task = Task(tiny_model, "float32", SAMPLING, 6, 7, 5)
    expected = list(engine.open_engine(task)(PROMPTS, SEEDS, lambda tokens: None))
    sizes, limit = [], 2

    def short(model, stop, prompts, *others):
        sizes.append(len(prompts))
        if len(prompts) > limit:
            raise torch.OutOfMemoryError("no memory for this")
        return generate(model, stop, prompts, *others)

    monkeypatch.setattr(engine, "generate", short)
    run = engine.open_engine(task)
    [group] = run(PROMPTS, SEEDS, lambda tokens: None)
    assert [(i, answer._replace(halvings=0)) for i, answer in group] == expected[0]
    assert [answer.halvings for _, answer in group] == [2] * 5
    assert sizes == [5, 3, 2, 2, 1]
    said = capsys.readouterr().err
    assert "memory is short: 2 samples at once from now on (no memory for this)" in said
    limit = 0
    with pytest.raises(RacError, match="memory is short for a single sample"):
        list(run(PROMPTS, SEEDS, lambda tokens: None))


def test_a_model_that_keeps_other_states_than_keys_and_values_is_one_line(tmp_path, monkeypatch):
    heads = {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
    heads |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        "qwen3_5_text",
        **{"vocab_size": 768, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_key_value_heads": 2, "head_dim": 8, **heads},
        layer_types=["linear_attention", "full_attention"],
    )
    hybrid = AutoModelForCausalLM.from_config(config).eval()
    monkeypatch.setattr(engine.checkpoints, "load_model", lambda checkpoint, dtype: hybrid)
    with pytest.raises(RacError, match=r"other states .*LinearAttentionLayer.*engine: vllm may"):
        engine.load(tmp_path, "float32")


@pytest.fixture(scope="module")
def wide_model(random_qwen2, save_model, tmp_path_factory):
    """Large enough for its activations to fill memory."""
    settings = {"hidden_size": 256, "intermediate_size": 1024, "max_position_embeddings": 1024}
    return save_model(random_qwen2(**settings), tmp_path_factory.mktemp("models") / "wide")


@pytest.mark.gpu
def test_a_gpu_draws_what_the_cpu_draws(gpu, wide_model):
    network = engine.load(wide_model, "float32")
    prompts = [[5 + i, 9, 12 + i] for i in range(64)]
    drawn = [
        generate(network.to(device), [2], prompts, list(range(64)), SAMPLING, 24)
        for device in ("cpu", gpu)
    ]
    same = sum(here == there for here, there in zip(*drawn, strict=True))
    assert same >= 60  # a draw that is at the border of two tokens may fall to the other one


@pytest.mark.gpu
def test_a_gpu_whose_memory_is_really_short_generates_in_halves(wide_model, short_memory, capsys):
    prompts, seeds = [[5 + i % 50] * 500 for i in range(64)], list(range(64))
    run = engine.open_engine(Task(wide_model, "float32", SAMPLING, 16, 500, 64))
    [group] = run(prompts, seeds, lambda tokens: None)
    short_memory(2**28)
    [halved] = run(prompts, seeds, lambda tokens: None)
    assert "samples at once from now on" in capsys.readouterr().err
    assert all(answer.halvings for _, answer in halved)
    same = sum(a.token_ids == b.token_ids for (_, a), (_, b) in zip(group, halved, strict=True))
    assert same >= 60
