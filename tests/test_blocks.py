import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rac import linear
from rac.blocks import walk
from rac.errors import RacError
from rac.inputs import sum_inputs
from rac.sources import Sequence

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
FAMILIES = {
    "qwen2": ("qwen2", GROUPED | {"tie_word_embeddings": True}),
    "qwen2-untied": ("qwen2", GROUPED | {"tie_word_embeddings": False}),
    "qwen3": ("qwen3", GROUPED),
    "llama": ("llama", GROUPED),
    "llama-biases": ("llama", GROUPED | {"attention_bias": True, "mlp_bias": True}),
    "llama-yarn": ("llama", GROUPED | {"rope_parameters": YARN}),
    "mistral-windows": ("mistral", GROUPED | {"sliding_window": 7}),
    "gemma": ("gemma", GROUPED),
    "gemma3-windows": ("gemma3_text", GROUPED | {"sliding_window": 7, "sliding_window_pattern": 2}),
    "phi": ("phi", SMALL),
    "phi3": ("phi3", GROUPED),
    "gpt_neox": ("gpt_neox", SMALL),
    "opt": ("opt", SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
}
LENGTHS = [20, 5, 33, 1, 17]


def random_model(kind, settings):
    """Every parameter is random, norms and biases too: at their initial values they do nothing."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def random_sequences(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(0)
    return [
        Sequence(torch.randint(3, 64, (length,), generator=generator), max(length // 3, 1))
        for length in lengths
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A folder, and the model as transformers loads it from there."""
    folder = tmp_path_factory.mktemp("family")
    random_model(*FAMILIES[request.param]).save_pretrained(folder)
    return folder, AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    random_model("llama", GROUPED).save_pretrained(folder)
    return folder


def seen(model, names, token_ids, inputs=False):
    """What the modules give (or get) in a forward pass of the whole model over one batch."""
    found = {}

    def hook(name):
        def remember(module, args, kwargs, output):
            output = output[0] if isinstance(output, tuple) else output
            found[name] = (args[0] if args else kwargs["hidden_states"]) if inputs else output

        return remember

    handles = [
        model.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True)
        for name in names
    ]
    with torch.no_grad():
        model(input_ids=token_ids)
    for handle in handles:
        handle.remove()
    return found


def assert_outputs(step, batch, output, model, sequences):
    """The outputs of a batch are those of the whole model for each sequence by itself."""
    is_head = step.module is step._walk.network.get_output_embeddings()
    for row, i in zip(output, step.batches[batch], strict=True):
        token_ids = sequences[i].token_ids
        expected = seen(model, [step.name], token_ids[None], inputs=is_head)[step.name][0]
        torch.testing.assert_close(row[: len(token_ids)], expected, rtol=1e-4, atol=2e-5)


def test_hidden_states_are_those_of_the_whole_model(family):
    folder, model = family
    sequences = random_sequences()
    steps = 0
    for step in walk(folder, "float32", sequences, 40):
        assert step.index == steps
        for batch in range(len(step.batches)):
            assert_outputs(step, batch, step.forward(batch), model, sequences)
        steps += 1
    assert steps == 4  # three blocks, and the output embedding


def test_sums_are_those_of_the_whole_model(family):
    folder, model = family
    sequences = random_sequences()
    groups = linear.groups(model)
    sums = {}

    def hook(name):
        def add(layer, args):
            for position, x in enumerate(args[0].flatten(0, -2).double()):
                key = name, "decode" if position >= sequence.prompt_length else "prompt"
                total, largest = sums.get(key, (0, torch.zeros(len(x), dtype=torch.float64)))
                sums[key] = total + torch.outer(x, x), largest.maximum(x.abs())

        return add

    for group in groups:
        model.get_submodule(group["name"]).register_forward_pre_hook(hook(group["name"]))
    with torch.no_grad():
        for sequence in sequences:
            model(input_ids=sequence.token_ids[None])
    for group in groups:
        model.get_submodule(group["name"])._forward_pre_hooks.clear()

    found = {}
    for step in walk(folder, "float32", sequences, 40):
        of_block = [group for group in groups if group["block"] == step.index]
        found |= sum_inputs(step, of_block, sequences, ("prompt", "decode"))
    assert found.keys() == sums.keys() and len(found) == 2 * len(groups)
    for key, (hessian, absmax) in found.items():
        expected, largest = sums[key]
        scale = expected.diagonal().mean().item()
        torch.testing.assert_close(hessian.double(), expected, rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(absmax.double(), largest, rtol=1e-4, atol=1e-5)
        assert torch.equal(hessian, hessian.T)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_as_transformers_runs_them(llama, dtype):
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=getattr(torch, dtype)).eval()
    sequences = random_sequences([9, 9, 9])
    token_ids = torch.stack([sequence.token_ids for sequence in sequences])
    expected = seen(model, [f"model.layers.{i}" for i in range(3)], token_ids)
    for step in walk(llama, dtype, sequences, 27):
        if step.index < 3:
            assert torch.equal(step.forward(0), expected[step.name])


def test_one_block_at_a_time_has_weights(llama):
    for step in walk(llama, "float32", random_sequences(), 40):
        network = step._walk.network
        loaded = {name for name, tensor in network.named_parameters() if not tensor.is_meta}
        own = {f"{step.name}.{name}" for name, _ in step.module.named_parameters()}
        assert loaded == own | {"model.norm.weight"}


def test_the_next_block_sees_the_outputs_of_changed_weights(llama):
    sequences = random_sequences()
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    with torch.no_grad():
        for step in walk(llama, "float32", sequences, 40):
            for batch in range(len(step.batches)):
                step.forward(batch, keep=False)  # with the weights of the folder
            if step.index < 3:
                name = f"{step.name}.mlp.down_proj"
                step.layer(name).weight.mul_(0.5)
                model.get_submodule(name).weight.mul_(0.5)
            else:
                for batch in range(len(step.batches)):
                    assert_outputs(step, batch, step.forward(batch), model, sequences)


def test_what_is_not_run_is_run_when_the_walk_goes_on(llama):
    sequences = random_sequences()
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    for step in walk(llama, "float32", sequences, 40):
        if step.index == 0:
            step.forward(1)
        if step.index == 3:
            for batch in range(len(step.batches)):
                assert_outputs(step, batch, step.forward(batch), model, sequences)


def test_inputs_are_gone_once_the_outputs_are_kept(llama):
    step = next(walk(llama, "float32", random_sequences(), 40))
    step.forward(0)
    with pytest.raises(ValueError, match="model.layers.0: batch 0 has gone on"):
        step.inputs(0)


def test_weights_can_be_trained(llama):
    step = next(walk(llama, "float32", random_sequences(), 40))
    weight = step.layer("model.layers.0.mlp.down_proj").weight.requires_grad_()
    step.forward(0, keep=False).square().mean().backward()
    assert weight.grad.abs().sum() > 0
    assert not step._walk.states[0].requires_grad


def test_hidden_states_may_wait_on_disk(llama, tmp_path):
    sequences = random_sequences()
    in_memory = [
        [step.forward(batch) for batch in range(len(step.batches))]
        for step in walk(llama, "float32", sequences, 40)
    ]
    for step in walk(llama, "float32", sequences, 40, spill=tmp_path):
        assert not list(tmp_path.iterdir())  # the files have no names any more
        for batch in range(len(step.batches)):
            assert torch.equal(step.forward(batch), in_memory[step.index][batch])


def test_a_disk_that_refuses_is_named(llama, tmp_path):
    with pytest.raises(RacError, match="cannot write .*nowhere: No such file"):
        next(walk(llama, "float32", random_sequences(), 40, spill=tmp_path / "nowhere"))
