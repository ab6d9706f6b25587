import pytest
import torch

from rac import layers, solvers
from rac.variants import Variant

PRUNED = {"solver": "sparsegpt", "sparsity": [0.5]}


ASKED = [
    (pruned, {"scheme": scheme, "method": method})
    for pruned in ({}, PRUNED, {"solver": "sparsegpt", "pattern": "2:4"})
    for scheme in ("w4a16", "w8a8", "fp8")
    for method in ("gptq", "rtn", "joint")
    if pruned or method != "joint"
]


@pytest.mark.gpu
@pytest.mark.parametrize(("pruned", "quantize"), ASKED)
def test_a_gpu_rounds_as_the_cpu_does(gpu, pruned, quantize):
    """But for last bits: in another order of sums some numbers fall on the other side of a half."""
    variant = Variant(**pruned, quantize=quantize)
    generator = torch.Generator().manual_seed(0)
    weights = {n: torch.randn(r, 384, generator=generator) for n, r in (("gate", 200), ("up", 200))}
    x = torch.randn(1024, 384, generator=generator)
    x[:, 1:] += x[:, :-1]
    x[:, ::7] *= 5
    hessian = x.T @ x
    pattern = dict.fromkeys(
        weights, variant.pattern if ":" in variant.pattern else "unstructured 0.5"
    )

    def solved(device):
        given = {name: weight.to(device) for name, weight in weights.items()}
        return layers.solve(given, hessian.to(device), variant, pattern, torch.bfloat16)

    for (name, here, _), (_, there, _) in zip(solved("cpu"), solved(gpu), strict=True):
        assert there.weight.device.type == "cuda"
        if pruned:
            assert (here.mask == there.mask.cpu()).float().mean() > 0.995
        weight, on_gpu = weights[name], hessian.to(gpu)
        ours = solvers.relative_error(weight, here.weight, hessian)
        theirs = solvers.relative_error(weight.to(gpu), there.weight, on_gpu)
        assert theirs == pytest.approx(ours, rel=0.02)
