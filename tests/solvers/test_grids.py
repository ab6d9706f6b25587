import pytest
import torch
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization import quantize as their_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from hypothesis import given
from hypothesis import strategies as st

from rac.solvers import grids
from rac.solvers.grids import SHRINKS, Grid

PRESETS = {
    "W4A16": Grid("int", 4, 128),
    "W8A8": Grid("int", 8, None),
    "FP8_DYNAMIC": Grid("float", 8, None),
}
GRIDS = [Grid("int", 4, 4), Grid("int", 4, None), Grid("int", 8, None), Grid("float", 8, None)]


def random(rows=6, columns=256, seed=0, dtype=torch.float32):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("preset", PRESETS)
def test_as_compressed_tensors_has_it(preset):
    arguments, grid = preset_name_to_scheme(preset, ["Linear"]).weights, PRESETS[preset]
    weight = random()
    grouped = weight.unflatten(1, (-1, grid.group or 256))
    scales, zero_points = calculate_qparams(grouped.amin(-1), grouped.amax(-1), arguments)
    ours = grids.scales_of(weight, grid, torch.float32)
    torch.testing.assert_close(ours, scales, rtol=1e-6, atol=0)
    codes = their_quantize(weight, scales, zero_points, arguments)
    assert torch.equal(grids.quantize(weight, scales, grid).codes.float(), codes.float())
    least, most = codes.float().min().item(), codes.float().max().item()
    assert grid.lowest <= least <= grid.lowest / 2 and grid.highest / 2 <= most <= grid.highest


def brute_force(group, importance, dtype):
    """The scale of one group of numbers, one factor after the other."""
    found = []
    for shrink in SHRINKS:
        scale = torch.tensor(max(map(abs, group)) / 7.5 * shrink).to(dtype).double().item()
        rounded = [max(-8, min(7, round(w / scale))) * scale for w in group]
        errors = (i * (w - r) ** 2 for i, w, r in zip(importance, group, rounded, strict=True))
        found.append((sum(errors), -shrink, scale))
    return min(found)[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_four_bit_scales_clip_where_that_pays(dtype):
    weight = random(rows=70, columns=24, dtype=torch.float64)
    importance = torch.rand(24, generator=torch.Generator().manual_seed(1)).double()
    scales = grids.scales_of(weight, Grid("int", 4, 8), dtype, importance)
    expected = [
        [
            brute_force(row[at : at + 8], importance[at : at + 8].tolist(), dtype)
            for at in (0, 8, 16)
        ]
        for row in weight.tolist()
    ]
    assert scales.dtype == dtype
    torch.testing.assert_close(scales.double(), torch.tensor(expected, dtype=torch.float64))
    assert (scales < grids.scales_of(weight, Grid("int", 4, 8), dtype)).any()


@given(
    st.integers(1, 5), st.integers(1, 4), st.sampled_from(GRIDS), st.integers(0, 99), st.booleans()
)
def test_rounding_is_to_the_nearest_code(rows, groups, grid, seed, searched):
    weight = random(rows, 4 * groups, seed)
    importance = torch.ones(4 * groups) if searched else None
    scales = grids.scales_of(weight, grid, torch.bfloat16, importance)
    quantized = grids.quantize(weight, scales, grid)
    assert quantized.codes.dtype == grids.dtype_of_codes(grid)
    every = torch.arange(grid.lowest, grid.highest + 1)
    if grid.kind == "float":
        every = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float()
        every = every[every.isfinite()]
    size = grid.group or 4 * groups
    spread = scales.float().repeat_interleave(size, 1)[..., None]
    nearest = (weight[..., None] - spread * every).abs().amin(-1)
    restored = grids.dequantize(quantized, grid)
    torch.testing.assert_close((weight - restored).abs(), nearest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0, 1e-30, 1e-5, 1.0, 1e4])
def test_no_size_makes_a_number_that_is_none(grid, dtype, size):
    weight = random(columns=8) * size
    weight[0] = 0  # a group of zeros
    for importance in (None, torch.ones(8)):
        scales = grids.scales_of(weight, grid, dtype, importance)
        quantized = grids.quantize(weight, scales, grid)
        assert (scales > 0).all() and scales.dtype == dtype
        restored = grids.dequantize(quantized, grid)
        assert restored.isfinite().all() and not restored[0].any()


def test_small_rows_in_float16_use_all_codes():
    weight = 3e-4 * random(columns=256)
    errors = {}
    for dtype in (torch.float16, torch.bfloat16):
        grid = Grid("int", 8, 0)
        scales = grids.scales_of(weight, grid, dtype)
        codes = grids.quantize(weight, scales, grid)
        restored = grids.dequantize(codes, grid).float()
        errors[dtype] = ((restored - weight).norm() / weight.norm()).item()
    assert errors[torch.float16] < 1.2 * errors[torch.bfloat16] < 0.012


def test_a_scale_too_large_for_its_dtype_is_refused():
    with pytest.raises(ValueError, match="does not fit in torch.float16"):
        grids.scales_of(torch.full((1, 4), 1e9), Grid("int", 4, 4), torch.float16)


def test_groups_must_divide_the_columns():
    with pytest.raises(ValueError, match="groups of 128 columns do not divide the weight's 192"):
        grids.scales_of(torch.ones(2, 192), Grid("int", 4, 128), torch.bfloat16)
