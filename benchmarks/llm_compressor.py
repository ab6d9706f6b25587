"""SparseGPT and GPTQ by llm-compressor, on a model and token sequences of this project.

    python benchmarks/llm_compressor.py MODEL SEQUENCES sparsegpt|gptq OUTPUT

Runs in an environment of its own, envs/llmcompressor.yaml, without this package. MODEL is a Hugging Face
folder, SEQUENCES a source's sequences.safetensors. OUTPUT becomes a Hugging Face folder of dense numbers,
as large as MODEL, with cost.json: seconds, processor seconds, and the largest resident memory, from before
the model is loaded until it is compressed.

    python benchmarks/layer_errors.py MODEL CHECKPOINT HESSIANS SEQUENCES

gives the relative errors of its layers and its loss on sequences, in this project's environment.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier
from llmcompressor.modifiers.quantization import GPTQModifier
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

RECIPES = {
    "sparsegpt": lambda: SparseGPTModifier(
        sparsity=0.5, targets=["Linear"], ignore=["re:.*lm_head"], dampening_frac=0.01
    ),
    "gptq": lambda: GPTQModifier(
        scheme="W4A16", targets="Linear", ignore=["lm_head"], dampening_frac=0.01
    ),
}


def main() -> None:
    model, sequences, recipe, output = sys.argv[1:]
    stored = load_file(sequences)
    rows = stored["token_ids"].split(stored["lengths"].tolist())
    data = Dataset.from_dict(
        {
            "input_ids": [row.tolist() for row in rows],
            "attention_mask": [[1] * len(row) for row in rows],
        }
    )
    wall, processor = time.perf_counter(), time.process_time()
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    oneshot(
        model=network,
        dataset=data,
        recipe=RECIPES[recipe](),
        max_seq_length=max(map(len, rows)),
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
    )
    cost = {
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
    }
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            weight = layer.weight.data
            if hasattr(layer, "quantization_scheme"):
                from compressed_tensors.quantization.lifecycle.forward import fake_quantize

                weight = fake_quantize(
                    weight,
                    layer.weight_scale,
                    layer.weight_zero_point,
                    layer.quantization_scheme.weights,
                    getattr(layer, "weight_g_idx", None),
                )
            plain.get_submodule(name).weight.data = weight.detach()
    plain.save_pretrained(output)
    (Path(output) / "cost.json").write_text(json.dumps(cost, indent=2) + "\n")
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
