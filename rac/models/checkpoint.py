"""Hugging Face folders as this project reads them: weights, tokenizer, identity."""

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rac.artifacts import read_json, sha256_files
from rac.errors import RacError, one_line
from rac.provenance import changed, is_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "tekken.json")
TEXTS = ("LICENSE*", "README.md")  # for people: nothing here reads them
FILES = ("*.json", "*.jinja", "*.txt", "*.model", *TEXTS)  # of a dense model, beside the weights
RECORDS = ("model.json", "compression.json")  # of another folder: a new one gets its own
INDEX = "model.safetensors.index.json"


def beside_weights(folder: Path) -> list[Path]:
    """The files of a dense model's folder that are copied: all that its model needs beside its weights."""
    files = (file for pattern in FILES for file in sorted(folder.glob(pattern)))
    return [file for file in files if file.name not in RECORDS]


def weight_names(folder: Path) -> list[str]:
    """The names of the safetensors files that make up the model: those of the index, or the only one.

    Raises:
        RacError: the index is damaged.
    """
    index = Path(folder) / INDEX
    if not index.exists():
        return ["model.safetensors"]
    try:
        found = set(read_json(index)["weight_map"].values())
    except (AttributeError, KeyError, TypeError):
        found = set()
    plain = (isinstance(name, str) and Path(name).name == name != ".." for name in found)
    if not found or not all(plain):
        raise RacError(f"{index} does not say which file of its folder holds which weight")
    return sorted(found)


def check_folder(folder: Path, name: str, hub: str | None = None) -> None:
    """Refuse what model `name` is to be read from, if it is no Hugging Face folder of a dense model.

    Args:
        folder: the folder.
        name: the model's name, for messages.
        hub: repository and commit, if the folder is a cache's and not the user's own.

    Raises:
        RacError: config.json is not there, is no JSON object, or says that the weights are quantized.
    """
    place = f"models.{name}: {hub}" if hub else f"models.{name}.path: {folder}"
    file = folder / "config.json"
    if not file.is_file():
        raise RacError(f"{place} is not a Hugging Face folder (config.json is missing)")
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RacError(f"{place}/config.json is damaged: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise RacError(f"{place}/config.json is not a JSON object")
    for part in (values, values.get("text_config")):
        if not isinstance(part, dict) or "quantization_config" not in part:
            continue
        said = part["quantization_config"]
        if not isinstance(said, dict) or not said:
            raise RacError(
                f"{place}/config.json: quantization_config is {json.dumps(said)[:60]}; a dense model has "
                "none: take it out"
            )
        method = said.get("quant_method")
        named = f" ({' '.join(method.split())[:40]})" if isinstance(method, str) else ""
        raise RacError(f"{place} is quantized{named}: give the dense model")


def identity(folder: Path) -> str:
    """SHA-256 over the weights of a folder that the `model` or the `compress` stage made.

    Raises:
        RacError: the folder, or the file in it that records this, is missing or changed.
    """
    return _recorded(folder, "weights_sha256")


def recorded(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of such a folder by their names, as it was written.

    Raises:
        RacError: as `identity`.
    """
    return _recorded(folder, "sha256")


def _recorded(folder: Path, key: str) -> Any:
    file = _record(folder)
    record = read_json(file)
    if not isinstance(record, dict) or key not in record:
        raise RacError(f"{file} has no '{key}'; delete {folder}")
    if not is_whole(record):
        raise RacError(f"{file} was changed after it was written; delete {folder}")
    return record[key]


def _record(folder: Path) -> Path:
    """The file that says what a folder's files are."""
    compressed = Path(folder) / "compression.json"
    return compressed if compressed.exists() else Path(folder) / "model.json"


def check(folder: Path, with_weights: bool = True) -> None:
    """Refuse a folder whose files are not those that model.json or compression.json was written with.

    A folder that no stage made has neither, and is taken as it is. Card and licence may be edited: only
    `rac verify` says so.

    Args:
        folder: the folder.
        with_weights: look at the weights too, and not at the files beside them alone.

    Raises:
        RacError: a file is missing or changed, or the record is; names it.
    """
    record = _record(folder)
    if not record.exists():
        return
    expected = recorded(folder)
    names = {
        name
        for name in expected
        if (with_weights or not name.endswith(".safetensors"))
        and not any(fnmatch(name, text) for text in TEXTS)
    }
    if with_weights:
        from rac.models import weights

        names |= {file.name for file in weights.files(folder)}
    files = sorted(Path(folder) / name for name in names)
    for file in files:
        if not file.is_file():
            raise RacError(f"{file} is missing; delete {folder} to have it made again")
    for file, digest in sha256_files(files):
        if digest != expected.get(file.name):
            raise RacError(changed(file, record, folder))


def load_model(folder: Path, dtype: str) -> "PreTrainedModel":
    """The causal language model in `folder`, in evaluation mode, on the CPU or the first GPU.

    Raises:
        RacError: no such folder, or files that are changed, cut, foreign or do not fit config.json.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise RacError(f"{folder} is not a Hugging Face folder: config.json is missing")
    check(folder)
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
        raise RacError(f"cannot load the checkpoint {folder}: {one_line(error)}") from None
    model, report = loaded
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(what):
            first = sorted(map(str, report[what]))[0]
            raise RacError(f"the weights in {folder} do not fit its config.json: {what} {first}, …")
    return model.eval().to(default_device())


def default_device() -> str:
    """The first GPU, or the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in `folder`: tokenizer.json as it is, where there is one.

    The classes of transformers 5 put parts of their own in its place. Llama's takes the spaces out of
    DeepSeek-R1-Distill-Llama's (but where the folder's name is that of the hub).

    Raises:
        RacError: it is missing, damaged, changed or has no chat template.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    check(folder, with_weights=False)
    # Without these files transformers makes a tokenizer of no words, and says nothing.
    if not any(file for kind in TOKENIZERS for file in Path(folder).glob(kind)):
        raise RacError(f"{folder} has no tokenizer: none of {', '.join(TOKENIZERS)} is there")
    whole = (Path(folder) / "tokenizer.json").exists()
    of = PreTrainedTokenizerFast if whole else AutoTokenizer
    try:
        tokenizer = of.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise RacError(f"cannot load the tokenizer in {folder}: {one_line(error)}") from None
    if not tokenizer.chat_template:
        raise RacError(f"the tokenizer in {folder} has no chat template; a reasoning model has one")
    return tokenizer


def stop_tokens(folder: Path) -> list[int]:
    """Token ids that end an answer: `eos_token_id` of generation_config.json, else of config.json.

    Raises:
        RacError: neither file names one, one of them names something else, or they are changed.
    """
    check(folder, with_weights=False)
    for name in ("generation_config.json", "config.json"):
        file = Path(folder) / name
        values = read_json(file) if file.exists() else {}
        if not isinstance(values, dict):
            raise RacError(f"{file} is not a JSON object")
        stop = values.get("eos_token_id")
        stops: list[Any] = stop if isinstance(stop, list) else [stop]
        if stop is None or not stops:
            continue
        if not all(type(token) is int and token >= 0 for token in stops):  # true is an int, too
            raise RacError(
                f"{file}: eos_token_id is {json.dumps(stop)[:60]}, not a token's id or a list of them"
            )
        return stops
    raise RacError(f"{folder}: no eos_token_id in generation_config.json or config.json")
