"""Stage `model`: the dense model as a Hugging Face folder, with what later stages ask of it in model.json."""

import shutil
from pathlib import Path

from rac.artifacts import atomic_folder, provenance, write_json
from rac.config import Model
from rac.errors import RacError
from rac.models import weights
from rac.models.reasoner import WEIGHTS

FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "LICENSE*", "README.md")


def prepare_model(model: Model, name: str, output: Path) -> None:
    """Write resources/models/{name}: weights, tokenizer, chat template and model.json.

    model.json holds the SHA-256 of the weights and the groups of linear layers that share an input.
    Files of a local folder are linked, not copied; those of the hub are downloaded at the pinned commit.

    Raises:
        RacError: the folder, the repository or a file of it is missing, damaged or of a foreign kind.
    """
    with atomic_folder(output) as folder:
        if model.hub:
            _download(model, name, folder)
        else:
            source = WEIGHTS if model.embedded else model.path
            if source is None or not (source / "config.json").is_file():
                raise RacError(
                    f"models.{name}.path: {source} is not a Hugging Face folder (config.json is missing)"
                )
            for file in (file for pattern in FILES for file in sorted(source.glob(pattern))):
                if file.suffix == ".safetensors":
                    (folder / file.name).symlink_to(file.resolve())
                else:
                    shutil.copyfile(file, folder / file.name)
        write_json(
            folder / "model.json",
            {
                "weights_sha256": weights.sha256(folder),
                "linear_groups": _linear_groups(folder, model.dtype),
            }
            | provenance(definition=model.model_dump(mode="json")),
        )


def _linear_groups(folder: Path, dtype: str) -> list[dict]:
    from rac.linear import groups
    from rac.models.checkpoint import load_model, load_tokenizer, stop_tokens

    load_tokenizer(folder)  # what is wrong with it is said here, not hours later
    stop_tokens(folder)
    try:
        return groups(load_model(folder, dtype))
    except ValueError as error:
        raise RacError(f"{folder.name}: {error}") from None


def _download(model: Model, name: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot_download(
            str(model.hub), revision=model.revision, local_dir=folder, allow_patterns=list(FILES)
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise RacError(
            f"models.{name}: cannot download {model.hub}@{model.revision} "
            f"({str(error).splitlines()[0]}); without a network, put the repository's files in a "
            f"folder and give it as models.{name}.path"
        ) from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)
