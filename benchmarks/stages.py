"""What the stages take on this machine's GPU, beside what is planned for it: seconds, and peak memory.

    python benchmarks/stages.py --output FILE.json [--shapes r1-qwen-1.5b=4]

A shape is a model of config.yaml and how many of its decoder blocks are made, of random weights in
bfloat16; plans are for so many. Several are separated by commas. Inputs are random tokens. Seconds are of the
stage's own function, with all that it reads, checks and writes, without the start of its process; memory is
what torch allocated. No sample ends early. What is written goes to a folder in TMPDIR: a model and some
checkpoints and Hessians of it.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rac import costs, diagnostics, hessians, losses, sources
from rac.compress import compress
from rac.costs import Cost, Shape
from rac.definitions import Calibration, Model, Sampling, Source
from rac.engines import transformers as engine
from rac.models import checkpoint
from rac.models.prepare import prepare_model
from rac.models.reasoner import WEIGHTS
from rac.plan import SHAPES
from rac.variants import Variant

DTYPE = "bfloat16"
LONGEST = {"text": 2048, "traces": 8192}  # tokens of a sequence
TOKENS = 2**18
HELDOUT = 2**16
DECODE = (64, 256, 256)  # samples at once, tokens of a prompt, new tokens
PRUNED = {"solver": "sparsegpt", "sparsity": [0.5]}
VARIANTS = {
    "SparseGPT 50 %": (PRUNED, "unstructured 0.5"),
    "SparseGPT 2:4": ({"solver": "sparsegpt", "pattern": "2:4"}, "2:4"),
    "GPTQ W4A16": ({"quantize": {"scheme": "w4a16"}}, ""),
    "20 % of the neurons": ({"solver": "structured", "sparsity": [0.2]}, "structured 0.2"),
    "ALPS 50 %": ({"solver": "alps", "sparsity": [0.5]}, "unstructured 0.5"),
}


def make_model(name: str, blocks: int, folder: Path) -> Path:
    """A model of config.yaml with random weights, as the stage `model` leaves it."""
    hub = yaml.safe_load(Path("config.yaml").read_text())["models"][name]["hub"]
    sizes = json.loads(SHAPES.read_text())[hub] | {"num_hidden_layers": blocks}
    config = AutoConfig.for_model("qwen2", **sizes, max_position_embeddings=32768, eos_token_id=2)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, DTYPE))
    model.save_pretrained(folder / "random")
    for file in (*WEIGHTS.glob("tokenizer*"), WEIGHTS / "chat_template.jinja"):
        shutil.copyfile(file, folder / "random" / file.name)
    prepare_model(Model(path=folder / "random", dtype=DTYPE), name, folder / "model")
    return folder / "model"


def make_sequences(kind: str, tokens: int, model: Path, folder: Path) -> Path:
    """Random token ids; of traces, an eighth of a sequence is the prompt."""
    length = LONGEST[kind]
    count = tokens // length
    prompt = length // 8 if kind == "traces" else length
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "token_ids": torch.randint(0, 150_000, (tokens,), generator=generator).int(),
        "lengths": torch.full((count,), length).int(),
        "prompt_lengths": torch.full((count,), prompt).int(),
    }
    file = folder / f"{kind}-{tokens}.safetensors"
    save_file(tensors, file, sources.metadata(kind, checkpoint.identity(model), tensors))
    return file


def measure(what: str, planned: Cost, run: Callable[[], object]) -> dict:
    """A row of the table."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    row = {
        "stage": what,
        "seconds": time.perf_counter() - start,
        "planned_seconds": planned.seconds,
        "device": torch.cuda.max_memory_allocated() - before,
        "planned_device": planned.device,
    }
    print(f"{what}: {row['seconds']:.1f} s, {row['device'] / 1e9:.1f} GB", flush=True)
    return row


def measure_model(name: str, blocks: int, folder: Path) -> list[dict]:
    """Rows of all stages of a model."""
    model = make_model(name, blocks, folder)
    shape: Shape = costs.shape(json.loads((model / "config.json").read_text()), DTYPE)
    rows, stored = [], {}

    def source(kind: str, tokens: int) -> Source:
        asked = {"window": LONGEST[kind]} if kind == "text" else {"max_new_tokens": LONGEST[kind]}
        return Source(kind=kind, dataset="random", tokens=tokens, **asked)

    for kind, longest in LONGEST.items():
        sequences = make_sequences(kind, TOKENS, model, folder)
        stored[kind] = folder / f"hessians-{kind}"
        rows.append(
            measure(
                f"hessians, {TOKENS:,} tokens of {kind}",
                costs.hessians(shape, source(kind, TOKENS), longest, costs.H100),
                lambda s=sequences, k=kind: hessians.accumulate(model, s, DTYPE, stored[k]),
            )
        )
    calibration = Calibration(sum={"traces": 1})
    for what, (asked, pattern) in VARIANTS.items():
        variant, output = Variant(**asked), folder / "checkpoints" / what
        names = {"model": name, "calibration": "rac", "variant": what}
        rows.append(
            measure(
                f"compress, {what}",
                costs.compress(shape, variant, costs.H100),
                lambda v=variant, p=pattern, n=names, o=output: compress(
                    model, {"traces": stored["traces"]}, calibration, v, p, n, o, dtype=DTYPE
                ),
            )
        )
        if what != "SparseGPT 50 %":
            shutil.rmtree(output)
    pruned = folder / "checkpoints" / "SparseGPT 50 %"
    rows.append(
        measure(
            "diagnostics",
            costs.diagnostics(shape, costs.H100),
            lambda: diagnostics.diagnose(
                pruned, model, stored["traces"], DTYPE, "", folder / "diagnostics.json"
            ),
        )
    )
    heldout = [make_sequences(kind, HELDOUT, model, folder) for kind in ("traces", "text")]
    rows.append(
        measure(
            f"losses, twice {HELDOUT:,} tokens",
            costs.losses(
                shape,
                [source("traces", HELDOUT), source("text", HELDOUT)],
                max(LONGEST.values()),
                costs.H100,
            ),
            lambda: losses.measure_losses(
                pruned, model, *heldout, DTYPE, folder / "losses.json", folder / "tokens.jsonl.zst"
            ),
        )
    )
    batch, prompt, new = DECODE
    prompts = [[5] * prompt] * batch
    rows.append(
        measure(
            f"{batch} samples of {prompt} + {new} tokens",
            costs.decode(shape, batch, prompt, new, batch, costs.H100),
            lambda: engine.generate(
                engine.load(model, DTYPE), [], prompts, list(range(batch)), Sampling(), new
            ),
        )
    )
    return rows


def table(result: dict) -> str:
    """The rows, as Markdown."""
    lines = [
        f"{result['device']}, torch {result['torch']}, {DTYPE}; plans are for an {costs.H100.name}.",
        "",
        "| model | job | s | planned s | GPU's memory, GB | planned GB | planned / measured |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, rows in result["models"].items():
        for row in rows:
            cells = [model, row["stage"], f"{row['seconds']:.1f}", f"{row['planned_seconds']:.1f}"]
            cells += [f"{row[key] / 1e9:.2f}" for key in ("device", "planned_device")]
            cells.append(f"{row['planned_device'] / row['device']:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--shapes", default="r1-qwen-1.5b=4")
    asked = parser.parse_args()
    result: dict = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "models": {},
    }
    for name, _, blocks in (shape.partition("=") for shape in asked.shapes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            rows = measure_model(name, int(blocks), Path(folder))
        result["models"][f"{name}, {blocks} blocks"] = rows
        asked.output.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
