"""The Triton kernel beside the loop that it stands for: on a GPU, else by Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest
import torch

SCRIPT = """
import sys
import torch
from rac.solvers import kernel
from rac.solvers.columns import Settling, settle_one_by_one
from rac.solvers.grids import Grid

device, kind = sys.argv[1], sys.argv[2]
for seed, (count, rows) in enumerate([(1, 1), (2, 40), (4, 33), (12, 7), (128, 70), (200, 35)]):
    generator = torch.Generator().manual_seed(seed)
    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(device)
    offset, total = 3 * count, 4 * count
    inverse = (draw(count, count) / count).tril(-1) + torch.eye(count, device=device)
    drop = (draw(total, rows) > 0).float() if kind != "round" else None
    scales, group, grid = None, None, None
    if kind != "prune":
        scales = draw(3, rows).abs() + 0.1
        group, grid = [j % 3 for j in range(total)], Grid("int", 4, None)
    settling = Settling(drop, scales, group, grid)
    found, wanted = draw(count, rows), None
    wanted, lost, expected = found.clone(), torch.empty_like(found), torch.empty_like(found)
    # A part of a larger matrix, as a block's inverse is.
    wide = torch.nn.functional.pad(inverse, (2, 5))[:, 2 : 2 + count]
    kernel.settle_at_once(found, lost, wide, offset, settling)
    settle_one_by_one(wanted, expected, inverse, offset, settling)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lost, expected, rtol=1e-4, atol=1e-4)
    if drop is not None:
        assert not found[drop[offset:] == 1].any()
    ties = torch.tensor([[-8.5, -1.5, -0.5, 0.5, 1.5, 2.5, 99.0]], device=device)
    half = Settling(None, torch.ones(1, 7, device=device), [0], Grid("int", 4, None))
    kernel.settle_at_once(ties, torch.empty_like(ties), torch.eye(1, device=device), 0, half)
    assert ties.tolist() == [[-8, -2, 0, 0, 2, 2, 7]]
print("the same")
"""


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: it comes with vLLM, and torch for GPUs",
)
@pytest.mark.parametrize("kind", ["prune", "round", "both"])
def test_a_slice_is_settled_as_column_by_column(kind):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    interpreted = os.environ | ({} if device == "cuda" else {"TRITON_INTERPRET": "1"})
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), device, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=interpreted)
    assert done.stdout == "the same\n", done.stderr[-3000:]
