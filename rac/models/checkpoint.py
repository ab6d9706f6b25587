"""Hugging Face folders as this project reads them: weights, tokenizer, identity."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rac.artifacts import read_json
from rac.errors import RacError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def identity(folder: Path) -> str:
    """SHA-256 over the weights of a folder that the `model` or the `compress` stage made.

    Raises:
        RacError: the folder, or the file in it that records this, is missing or damaged.
    """
    compressed = Path(folder) / "compression.json"
    record = compressed if compressed.exists() else Path(folder) / "model.json"
    try:
        return read_json(record)["weights_sha256"]
    except KeyError:
        raise RacError(f"{record} has no 'weights_sha256'; delete {folder}") from None


def load_model(folder: Path, dtype: str) -> "PreTrainedModel":
    """The causal language model in `folder`, in evaluation mode, on the CPU or the first GPU.

    Raises:
        RacError: no such folder, or weights that are cut, foreign or do not fit config.json.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise RacError(f"{folder} is not a Hugging Face folder: config.json is missing")
    logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RacError(f"cannot load the checkpoint {folder}: {line}") from None
    model, report = loaded
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(what):
            first = sorted(map(str, report[what]))[0]
            raise RacError(f"the weights in {folder} do not fit its config.json: {what} {first}, …")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in `folder`.

    Raises:
        RacError: it is missing, damaged or has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise RacError(
            f"cannot load the tokenizer in {folder}: {str(error).splitlines()[0]}"
        ) from None
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
        stop = read_json(file).get("eos_token_id") if file.exists() else None
        if stop is not None:
            return [stop] if isinstance(stop, int) else list(stop)
    raise RacError(f"{folder}: no eos_token_id in generation_config.json or config.json")
