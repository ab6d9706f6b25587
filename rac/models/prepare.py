"""Stage `model`: the dense model as a Hugging Face folder, with what later stages ask of it in model.json."""

import shutil
from pathlib import Path
from typing import Any

from rac import hub
from rac.artifacts import atomic_folder
from rac.definitions import Model
from rac.errors import RacError
from rac.models import weights
from rac.models.checkpoint import FILES, beside_weights, check_folder, weight_names
from rac.models.reasoner import WEIGHTS
from rac.provenance import hashes, provenance, write_record


def prepare_model(model: Model, name: str, output: Path, code: str | None = None) -> None:
    """Write resources/models/{name}: weights, tokenizer, chat template and model.json.

    model.json holds the SHA-256 of the weights and the groups of linear layers that share an input.
    Weights of a local folder, or of the hub's cache at the pinned commit, are linked and not copied. Another
    file's link must not lead out of the folder: what it leads to would be copied, into every checkpoint too.

    Raises:
        RacError: the folder, the repository or a file of it is missing, damaged or of a foreign kind, or a
            link leads elsewhere.
    """
    source = WEIGHTS if model.embedded else model.path
    if model.hub:
        assert model.revision
        instead = f"without a network, give a folder with its files: models.{name}.path"
        repository = model.hub, model.revision
        source = hub.fetch(*repository, list(FILES), "model", f"models.{name}", instead)
        check_folder(source, name, f"{model.hub}@{model.revision}")
        # Some repositories hold the weights a second time, under other names.
        hub.fetch(*repository, weight_names(source), "model", f"models.{name}", instead)
    else:
        assert source is not None
        check_folder(source, name)
    with atomic_folder(output) as folder:
        try:
            for file in beside_weights(source):
                shutil.copyfile(_own(file), folder / file.name)
            for file in weights.files(source):
                if model.embedded:  # small, and part of this code: results may move without it
                    shutil.copyfile(file, folder / file.name)
                else:
                    (folder / file.name).symlink_to(file.resolve())
            record = _record(folder, model.dtype)
        except (RacError, ValueError) as error:  # this folder vanishes: name the one that stays
            place = f"{model.hub}@{model.revision}" if model.hub else str(source)
            raise RacError(f"models.{name}: {error}".replace(str(folder), place)) from None
        write_record(
            folder / "model.json",
            record | provenance("model", code, definition=model.model_dump(mode="json")),
        )


def _own(file: Path) -> Path:
    """Where a file of a model's folder lies: in it, or in the cache of a hub that it is a snapshot of.

    Raises:
        RacError: it is a link that leads elsewhere.
    """
    folder, found = file.parent.resolve(), file.resolve()
    root = folder.parent.parent if folder.parent.name == "snapshots" else folder
    if root not in found.parents:
        raise RacError(
            f"{file} is a link that leads out of its folder, to {found}; put the file "
            "itself there, or remove it"
        )
    return found


def _record(folder: Path, dtype: str) -> dict:
    from rac.linear import groups
    from rac.models.checkpoint import load_tokenizer, stop_tokens
    from rac.models.skeleton import cannot_build, skeleton

    load_tokenizer(folder)  # what is wrong with it is said here, not hours later
    stops = stop_tokens(folder)
    network = skeleton(folder, dtype)
    embedding: Any = network.get_input_embeddings().weight
    vocabulary = embedding.shape[0]
    if max(stops) >= vocabulary:
        raise RacError(
            f"{folder}: eos_token_id {max(stops)} is no token's id: the vocabulary has {vocabulary}"
        )
    try:
        linear_groups = groups(network)
    except ValueError:
        raise
    except Exception as error:  # by a foreign config.json it may fail in any way
        raise cannot_build(folder, error) from None
    of_files = hashes(folder)
    return {
        "weights_sha256": weights.identity(folder, of_files["sha256"]),
        "linear_groups": linear_groups,
        **weights.size(folder),
        **of_files,
    }
