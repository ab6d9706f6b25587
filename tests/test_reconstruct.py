import pytest
import torch

from rac import propagation
from rac.models import checkpoint
from rac.reconstruct import reconstruct
from rac.sources import read
from rac.variants import Reconstruct

WEIGHTS = {("traces", "prompt"): 0.0, ("traces", "decode"): 1.0}


@pytest.fixture
def files(tiny_hessians):
    folder = tiny_hessians["traces"].parent.parent / "sources"
    return {"traces": folder / "traces" / "sequences.safetensors"}


def pruned(model, names, share=0.5):
    """Layers of the model with the smallest weights of each set to zero, and the masks."""
    network = checkpoint.load_model(model, "float32")
    layers, masks = {}, {}
    for name in names:
        weight = network.get_submodule(name).weight.data
        masks[name] = weight.abs() > weight.abs().quantile(share)
        layers[name] = weight * masks[name]
    return layers, masks


@torch.no_grad()
def decode_rows(model, files, part, layers):
    """Inputs and outputs of a part at decode tokens, with some weights in place, by transformers."""
    network = checkpoint.load_model(model, "float32")
    for name, weight in layers.items():
        network.get_submodule(name).weight.copy_(weight)
    rows = []

    def hook(module, args, kwargs, output):
        given = args[0] if args else kwargs["hidden_states"]
        rows.append((given[0], (output[0] if isinstance(output, tuple) else output)[0]))

    network.get_submodule(part).register_forward_hook(hook, with_kwargs=True)
    for sequence in read(files["traces"]):
        network(input_ids=sequence.token_ids[None])
        rows[-1] = tuple(x.reshape(-1, x.shape[-1])[sequence.prompt_length :] for x in rows[-1])
    return tuple(torch.cat(x).double() for x in zip(*rows, strict=True))


def test_kept_weights_come_near_their_least_squares_fit(tiny_model, files):
    # With one layer of a part alone, the fit is linear: each row has its own normal equations.
    name = "model.layers.0.mlp.down_proj"
    layers, masks = pruned(tiny_model, [name])
    arrived = next(propagation.walk(tiny_model, "float32", files))
    asked = Reconstruct(steps=1500, learning_rate=0.02)
    fitted, gained = reconstruct(arrived, WEIGHTS, layers, masks, asked)
    x, y = decode_rows(tiny_model, files, name, {})
    best = torch.zeros_like(layers[name], dtype=torch.float64)
    for row, kept in enumerate(masks[name]):
        best[row, kept] = torch.linalg.lstsq(x[:, kept], y[:, row, None]).solution[:, 0]

    def error(weight):
        return ((x @ weight.double().T - y) ** 2).sum().item() / (y**2).sum().item()

    assert gained[0].part == "model.layers.0.mlp"
    assert gained[0].before == pytest.approx(error(layers[name]), rel=1e-3)
    assert gained[0].after == pytest.approx(error(fitted[name]), rel=1e-3)
    assert error(best) <= error(fitted[name]) < error(best) + 0.1 * error(layers[name])
    assert not fitted[name][~masks[name]].any()


def test_each_part_is_fitted_to_the_dense_one_s_outputs(tiny_model, files):
    names = [
        *(f"model.layers.0.self_attn.{kind}_proj" for kind in "qkvo"),
        *(f"model.layers.0.mlp.{kind}_proj" for kind in ("gate", "up", "down")),
    ]
    layers, masks = pruned(tiny_model, names)
    arrived = next(propagation.walk(tiny_model, "float32", files))
    fitted, gained = reconstruct(
        arrived, WEIGHTS, layers, masks, Reconstruct(steps=100, learning_rate=0.003)
    )
    assert [part.part for part in gained] == ["model.layers.0.self_attn", "model.layers.0.mlp"]
    for part, before, after in gained:
        _, dense = decode_rows(tiny_model, files, part, {})
        own = {name: fitted[name] for name in names if name.startswith(part)}
        _, output = decode_rows(tiny_model, files, part, own)
        assert after == pytest.approx(
            (((output - dense) ** 2).sum() / (dense**2).sum()).item(), rel=1e-3
        )
        assert after < 0.7 * before
    again, _ = reconstruct(
        arrived, WEIGHTS, layers, masks, Reconstruct(steps=100, learning_rate=0.003)
    )
    assert all(torch.equal(fitted[name], again[name]) for name in names)


def test_a_part_that_gets_no_better_stays(tiny_model, files):
    names = ["model.layers.0.mlp.up_proj"]
    layers, masks = pruned(tiny_model, names)
    arrived = next(propagation.walk(tiny_model, "float32", files))
    wild = Reconstruct(steps=3, learning_rate=100)
    fitted, gained = reconstruct(arrived, WEIGHTS, layers, masks, wild)
    assert torch.equal(fitted[names[0]], layers[names[0]])
    assert gained[0].after == gained[0].before
