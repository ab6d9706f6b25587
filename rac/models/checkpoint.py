"""Hugging Face folders as this project reads them: weights, tokenizer, identity."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rac.artifacts import read_json
from rac.errors import RacError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "tekken.json")


def check_folder(folder: Path, name: str) -> None:
    """Refuse what model `name` is to be read from, if it is no Hugging Face folder.

    Raises:
        RacError: config.json is not there.
    """
    if not (folder / "config.json").is_file():
        raise RacError(
            f"models.{name}.path: {folder} is not a Hugging Face folder (config.json is missing)"
        )


def identity(folder: Path) -> str:
    """SHA-256 over the weights of a folder that the `model` or the `compress` stage made.

    Raises:
        RacError: the folder, or the file in it that records this, is missing or damaged.
    """
    compressed = Path(folder) / "compression.json"
    record = compressed if compressed.exists() else Path(folder) / "model.json"
    try:
        return read_json(record)["weights_sha256"]
    except (KeyError, TypeError):
        raise RacError(f"{record} has no 'weights_sha256'; delete {folder}") from None


def load_model(folder: Path, dtype: str) -> "PreTrainedModel":
    """The causal language model in `folder`, in evaluation mode, on the CPU or the first GPU.

    Raises:
        RacError: no such folder, or weights that are changed, cut, foreign or do not fit config.json.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from rac.models import weights

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise RacError(f"{folder} is not a Hugging Face folder: config.json is missing")
    weights.check(folder)
    logging.disable_progress_bar()
    quantized = {}
    if "quantization_config" in read_json(folder / "config.json"):  # multiplied as dense numbers
        from transformers import CompressedTensorsConfig

        quantized = {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are reported below
            output_loading_info=True,
            **quantized,
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        line = " ".join(str(error).split())[:300] or type(error).__name__
        raise RacError(f"cannot load the checkpoint {folder}: {line}") from None
    model, report = loaded
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(what):
            first = sorted(map(str, report[what]))[0]
            raise RacError(f"the weights in {folder} do not fit its config.json: {what} {first}, …")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in `folder`: tokenizer.json as it is, where there is one.

    The classes of transformers 5 put parts of their own in its place. Llama's takes the spaces out of
    DeepSeek-R1-Distill-Llama's (but where the folder's name is that of the hub).

    Raises:
        RacError: it is missing, damaged or has no chat template.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # Without these files transformers makes a tokenizer of no words, and says nothing.
    if not any(file for kind in TOKENIZERS for file in Path(folder).glob(kind)):
        raise RacError(f"{folder} has no tokenizer: none of {', '.join(TOKENIZERS)} is there")
    whole = (Path(folder) / "tokenizer.json").exists()
    of = PreTrainedTokenizerFast if whole else AutoTokenizer
    try:
        tokenizer = of.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower
        line = " ".join(str(error).split())[:300] or type(error).__name__
        raise RacError(f"cannot load the tokenizer in {folder}: {line}") from None
    if not tokenizer.chat_template:
        raise RacError(f"the tokenizer in {folder} has no chat template; a reasoning model has one")
    return tokenizer


def stop_tokens(folder: Path) -> list[int]:
    """Token ids that end an answer: `eos_token_id` of generation_config.json, else of config.json.

    Raises:
        RacError: neither file names one.
    """
    for name in ("generation_config.json", "config.json"):
        file = Path(folder) / name
        values = read_json(file) if file.exists() else {}
        stop = values.get("eos_token_id") if isinstance(values, dict) else None
        stops: list[Any] = stop if isinstance(stop, list) else [stop]
        if stops and all(isinstance(token, int) for token in stops):
            return stops
    raise RacError(f"{folder}: no eos_token_id in generation_config.json or config.json")
