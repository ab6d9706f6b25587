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
from rac.solvers.columns import Groups, Settling, settle_one_by_one
from rac.solvers.grids import Grid
from rac.solvers.patterns import smallest_of_few

device, kind = sys.argv[1], sys.argv[2]
SIZES = [(1, 1), (2, 40), (4, 33), (12, 7), (128, 70), (200, 35)]
for seed, (count, rows) in enumerate(SIZES if "choose" not in kind else []):
    generator = torch.Generator().manual_seed(seed)
    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(device)
    offset, total = 3 * count, 4 * count
    inverse = (draw(count, count) / count).tril(-1) + torch.eye(count, device=device)
    drop = (draw(total, rows) > 0).float() if "prune" in kind else None
    scales, group, grid = None, None, None
    if "round" in kind:
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

def choose_one_by_one(columns, lost, inverse, groups, scales, grid):
    # The loop in slices of m columns, whose masks are chosen by comparing all pairs.
    kept = torch.empty_like(columns, dtype=torch.bool)
    for first in range(0, len(columns), groups.size):
        here = slice(first, first + groups.size)
        if first:
            columns[here] -= inverse[here, :first] @ lost[:first]
        scores = (columns[here] * groups.pivots[here, None]).abs()
        pruned = torch.empty_like(kept[here])
        for row, count in enumerate(groups.counts.tolist()):
            pruned[:, row] = smallest_of_few(scores[:, row, None], count)[:, 0]
        kept[here] = ~pruned
        group = [0] * groups.size
        settling = Settling(pruned.float(), scales, group if scales is not None else None, grid)
        settle_one_by_one(columns[here], lost[here], inverse[here, here], 0, settling)
    return kept

if "choose" in kind:
    for size, groups_of in [(2, 1), (4, 32), (3, 7), (8, 5), (32, 2)]:
        generator = torch.Generator().manual_seed(size)
        rows, count = 45, size * groups_of
        columns = torch.randn(count, rows, generator=generator).mul(4).round().to(device)  # ties
        inverse = (torch.randn(count, count, generator=generator).tril(-1) / 16).to(device)
        inverse += torch.eye(count, device=device)
        pivots = torch.ones(2 * count, device=device)
        pivots[count:] = torch.rand(count, generator=generator).to(device) + 0.5
        counts = (torch.arange(rows) % (size + 1)).int().to(device)
        kept = torch.zeros(2 * count, rows, dtype=torch.bool, device=device)
        scales = torch.full((1, rows), 0.5, device=device) if "round" in kind else None
        grid = Grid("int", 8, None) if "round" in kind else None
        for offset in (0, count):
            groups = Groups(size, counts, pivots, kept)
            group = [0] * 2 * count if scales is not None else None
            found, wanted = columns.clone(), columns.clone()
            lost, expected = torch.empty_like(found), torch.empty_like(found)
            kernel.settle_at_once(found, lost, inverse, offset, Settling(None, scales, group, grid, groups))
            own = groups._replace(pivots=pivots[offset : offset + count])
            mask = choose_one_by_one(wanted, expected, inverse, own, scales, grid)
            assert torch.equal(kept[offset : offset + count], mask)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(lost, expected, rtol=1e-4, atol=1e-4)
print("the same")
"""


@pytest.mark.gpu
@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: it comes with vLLM, and torch for GPUs",
)
@pytest.mark.parametrize(
    "kind", ["prune", "round", "prune and round", "choose", "choose and round"]
)
def test_a_slice_is_settled_as_column_by_column(kind):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    interpreted = os.environ | ({} if device == "cuda" else {"TRITON_INTERPRET": "1"})
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), device, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=interpreted)
    assert done.stdout == "the same\n", done.stderr[-3000:]
