"""A tiny random model and sequences for it, made in a second, for tests that need a folder."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

from rac import sources
from rac.artifacts import read_jsonl, write_jsonl
from rac.models import checkpoint, weights
from rac.models.reasoner import WEIGHTS
from rac.provenance import RECORDS, hashes, write_record
from rac.variants import Variant

torch.set_num_threads(1)  # tiny tensors gain nothing from more, and sums would hang on their number

# Time limits of a machine that is busy say nothing; CI tries the same examples every time.
settings.register_profile("rac", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("rac")

# .ci/run says that it installs what tests need; a machine that cannot, skips them.
INSTALLED = bool(os.environ.get("RAC_CI") and shutil.which("apt-get") and os.getuid() == 0)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Where tools are installed for the tests, a test that misses one fails."""
    report = yield
    if INSTALLED and report.skipped and "apt-get install" in str(report.longrepr):
        report.outcome, report.longrepr = "failed", f"not skipped with RAC_CI: {report.longrepr[2]}"
    return report


def pytest_terminal_summary(terminalreporter):
    """What kills and full disks cost, which tests record as "counted"."""
    reports = [each for of_kind in terminalreporter.stats.values() for each in of_kind]
    lines = [
        value
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "counted"
    ]
    if lines:
        terminalreporter.section("counted: kills met and what they cost")
        for line in lines:
            terminalreporter.write_line(line)


def _save_model(model, folder: Path) -> Path:
    """Write a model as the `model` stage leaves it, with the reasoner's tokenizer."""
    from rac.linear import groups

    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(WEIGHTS / name, folder / name)
    of_files = hashes(folder)
    write_record(
        folder / "model.json",
        {
            "weights_sha256": weights.identity(folder, of_files["sha256"]),
            "linear_groups": groups(model),
            **of_files,
        },
    )
    return folder


def _random_qwen2(seed: int = 0, **settings):
    """A random Qwen2 of 2 blocks, its weights large enough that tokens differ in activations."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "qwen2",
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            **settings,
        },
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(autouse=True)
def same_on_all_machines(request, monkeypatch):
    """In a test that is not marked `gpu` torch sees none."""
    if not request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The first GPU. A test that asks for it is marked `gpu` and skipped where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch sees none on this machine")
    return torch.device("cuda")


@pytest.fixture
def short_memory(gpu):
    """A function (bytes) after which torch takes no more of the GPU's memory than what it holds and that."""
    total = torch.cuda.get_device_properties(gpu).total_memory

    def shorten(size: int) -> None:
        torch.cuda.empty_cache()
        share = (torch.cuda.memory_reserved() + size) / total
        torch.cuda.set_per_process_memory_fraction(share)

    yield shorten
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def random_qwen2():
    """A function (seed=0, **settings of the configuration) → random Qwen2."""
    return _random_qwen2


@pytest.fixture(scope="session")
def save_model():
    """A function (model, folder) → the folder, with tokenizer and model.json."""
    return _save_model


@pytest.fixture(scope="session")
def llama_70b() -> dict:
    """config.json of deepseek-ai/DeepSeek-R1-Distill-Llama-70B, as far as sizes go."""
    return {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    }


@pytest.fixture(scope="session")
def write_sequences():
    """A function (path, model folder, kind, lengths, seed=0, below=700) → path of a source's sequences."""
    return _write_sequences


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of a random Qwen2 of 2 blocks with model.json. Read it, do not write to it."""
    return _save_model(_random_qwen2(), tmp_path_factory.mktemp("models") / "tiny")


def _write_sequences(
    path: Path, model: Path, kind: str, lengths: list[int], seed: int = 0, below: int = 700
) -> Path:
    """A file of random sequences of the given lengths; of traces, about a third is the prompt."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    prompts = [max(length // 3, 1) if kind == "traces" else length for length in lengths]
    tensors = {
        "token_ids": torch.randint(3, below, (total,), generator=generator).int(),
        "lengths": torch.tensor(lengths).int(),
        "prompt_lengths": torch.tensor(prompts).int(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, sources.metadata(kind, checkpoint.identity(model), tensors))
    return path


@pytest.fixture(scope="session")
def tiny_hessians(tiny_model, tmp_path_factory) -> dict[str, Path]:
    """Hessians of two sources of the tiny model: `traces` and `text`. Read them, do not write."""
    from rac.hessians import accumulate

    folder = tmp_path_factory.mktemp("tiny")
    stored = {}
    for seed, source in enumerate(("traces", "text")):
        sequences = folder / "sources" / source / "sequences.safetensors"
        _write_sequences(sequences, tiny_model, source, [40, 17, 3, 64, 29], seed)
        stored[source] = folder / "hessians" / source
        accumulate(tiny_model, sequences, "float32", stored[source])
    return stored


def _compressed(model, stored, variant, pattern, folder):
    from rac.compress import compress
    from rac.definitions import Calibration

    calibration = Calibration(sum={"traces": 1}) if stored else None
    names = {"model": "tiny", "calibration": "rac", "variant": variant.solver}
    compress(model, stored, calibration, variant, pattern, names, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pruned(tiny_model, tmp_path_factory) -> Path:
    """The tiny model, half of it pruned by magnitude. Read it, do not write."""
    folder = tmp_path_factory.mktemp("pruned") / "checkpoint"
    variant = Variant(solver="magnitude", sparsity=[0.5])
    return _compressed(tiny_model, {}, variant, "unstructured 0.5", folder)


@pytest.fixture(scope="session")
def tiny_narrow(tiny_model, tiny_hessians, tmp_path_factory) -> Path:
    """The tiny model, a quarter narrower. Read it, do not write."""
    folder = tmp_path_factory.mktemp("narrow") / "checkpoint"
    variant = Variant(solver="structured", sparsity=[0.25], multiple=4)
    return _compressed(tiny_model, tiny_hessians, variant, "structured 0.25", folder)


@pytest.fixture(scope="session")
def inputs_of():
    """A function (network, layer, token ids) that gives what a layer reads, float64 [tokens, columns]."""

    def read(network, layer, token_ids):
        seen = []
        handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
        with torch.no_grad():
            network(input_ids=token_ids[None])
        handle.remove()
        return seen[0].double()

    return read


@pytest.fixture(scope="session")
def kill_at():
    """A function (folder, pattern, process) that kills a process when it has written a file; gives that."""

    def wait(folder, pattern, process):
        deadline = time.monotonic() + 120
        while not (found := list(folder.glob(pattern))) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        return found[0]

    return wait


@pytest.fixture
def break_off_once(monkeypatch):
    """A function after which the engine breaks off in its second group, once.

    It returns the groups that are computed, each as the range of samples (by order) that it holds.
    """
    from rac.engines import samples

    opened, computed, total = samples.open_engine, [], []

    def fragile(*arguments):
        run = opened(*arguments)

        def generate(prompts, *arguments):
            total.append(len(prompts))
            for group in run(prompts, *arguments):
                start = total[0] - len(prompts) + group[0][0]
                computed.append(range(start, start + len(group)))
                if len(computed) == 2:
                    raise KeyboardInterrupt
                yield group

        return generate

    def install():
        monkeypatch.setattr(samples, "open_engine", fragile)
        return computed

    return install


class Disk:
    """A file system in memory, of a size that can be changed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def remount(self, options: str) -> None:
        """Change its options, as mount names them."""
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True)

    def everything(self) -> set[str]:
        """The files and folders on it."""
        return {str(file.relative_to(self.folder)) for file in self.folder.rglob("*")}


@pytest.fixture
def disk(tmp_path):
    """A disk of 32 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"this machine lets nobody mount a disk here: {made.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def cut():
    """Give a file of rows its record, and then cut its last row off."""

    def cut(file: Path) -> None:
        write_record(file.with_name(RECORDS[file.name]), hashes(file.parent, file.name))
        write_jsonl(file, read_jsonl(file)[:-1])

    return cut
