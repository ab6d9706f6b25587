"""Quantized weights as compressed-tensors stores them, which stock transformers and vLLM load.

Importing this imports transformers: import it only where something is quantized.
"""

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    preset_name_to_scheme,
)

from rac.solvers.grids import Grid, Quantized, dequantize

# Preset and format of the library, and the grid of the weights, by scheme.
SCHEMES = {
    "w4a16": ("W4A16", "pack-quantized", Grid("int", 4, 128)),
    "w8a8": ("W8A8", "int-quantized", Grid("int", 8, None)),
    "fp8": ("FP8_DYNAMIC", "float-quantized", Grid("float", 8, None)),
}


def grid(scheme: str, group: int) -> Grid:
    """The numbers that a scheme's weights can take.

    Args:
        scheme: `w4a16`; `w8a8` (int8) or `fp8` (e4m3), which have a scale a row, and round activations
            token by token when they run.
        group: of w4a16, columns that share a scale; the others do without.
    """
    of_scheme = SCHEMES[scheme][2]
    return of_scheme._replace(group=group) if of_scheme.group else of_scheme


def tensors(name: str, quantized: Quantized, scheme: str) -> dict[str, torch.Tensor]:
    """What takes the place of a layer's `{name}.weight` in a checkpoint.

    Args:
        name: of the layer.
        quantized: its codes [out, in] and scales [out, groups].
        scheme: as `grid`.

    Returns:
        w4a16: weight_packed (int32 [out, ⌈in / 8⌉]), weight_scale, weight_shape (int64 [2]);
        w8a8 and fp8: weight (int8 or float8_e4m3fn [out, in]), weight_scale [out, 1].
    """
    group = quantized.codes.shape[1] // quantized.scales.shape[1]
    compressor = BaseCompressor.get_value_from_registry(SCHEMES[scheme][1])
    # The library rounds once more: codes × scales / scales are the codes again.
    weight = dequantize(quantized, grid(scheme, group))
    stored = {"weight": weight, "weight_scale": quantized.scales}
    compressed = compressor.compress(stored, _scheme(scheme, group, [name]))
    return {f"{name}.{key}": tensor.contiguous() for key, tensor in compressed.items()}


def decompress(
    stored: dict[str, torch.Tensor], config: dict, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """The numbers that a quantized layer of a checkpoint stands for.

    Args:
        stored: as `tensors`, by the part of the name behind the layer's.
        config: the `quantization_config` of config.json.
        dtype: what the model runs in; that of the scales without.

    Returns:
        [out, in], in that dtype.
    """
    scale = stored["weight_scale"].to(dtype)
    compressor = BaseCompressor.get_value_from_registry(config["format"])
    scheme = QuantizationScheme.model_validate(config["config_groups"]["group_0"])
    return compressor.decompress(stored | {"weight_scale": scale}, scheme)["weight"]


def quantization_config(scheme: str, group: int, ignore: list[str]) -> dict:
    """The `quantization_config` of config.json.

    Args:
        scheme, group: as `grid`.
        ignore: names of all the linear layers that stay dense, the output embedding's too.
    """
    return QuantizationConfig(
        config_groups={"group_0": _scheme(scheme, group, ["Linear"])},
        format=SCHEMES[scheme][1],
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=ignore,
    ).model_dump(mode="json")


def _scheme(scheme: str, group: int, targets: list[str]) -> QuantizationScheme:
    preset = preset_name_to_scheme(SCHEMES[scheme][0], targets)
    if preset.weights.group_size:
        preset.weights.group_size = group
    return preset
