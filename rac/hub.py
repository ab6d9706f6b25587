"""Files of the Hugging Face hub at a pinned commit, checked by their hashes.

huggingface_hub keeps them in its cache (HF_HOME) and honours HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. Files
that are whole are not fetched again, and a connection that is cut goes on where it broke off. It does not
look at hashes; that is done here.
"""

import fnmatch
import hashlib
import os
import re
import time
from pathlib import Path
from typing import Literal

from rac.errors import RacError

# Plain HTTP, which goes on where a connection broke off, unless the user says otherwise.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

WAITS = (2.0, 8.0, 30.0)  # seconds before a try, after those that huggingface_hub makes itself
CHUNK = 2**22


def fetch(
    repository: str,
    revision: str,
    patterns: list[str],
    kind: Literal["model", "dataset"],
    key: str,
    instead: str,
) -> Path:
    """The folder in the cache with the files of a commit that match `patterns`; downloaded if need be.

    Args:
        repository: owner/name.
        revision: the commit, 40 hexadecimal digits.
        patterns: names of files, or patterns such as `*.safetensors`.
        kind: what the repository holds.
        key: where config.yaml asks for it, for messages.
        instead: what to do on a machine without a network, for messages.

    Raises:
        RacError: it does not exist, is gated, cannot be reached, holds no such file, or a file is not what
            the hub says.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what, endpoint = f"{key}: {repository}@{revision[:12]}", public(constants.ENDPOINT)
    problem = ""
    for wait in (*WAITS, None):
        try:
            found = snapshot_download(
                repository, repo_type=kind, revision=revision, allow_patterns=patterns
            )
            folder = Path(found)
            problem = _damage(folder, patterns)
        except GatedRepoError:
            page = f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{repository}"
            raise RacError(
                f"{what} is gated: ask for access on {page}, then set HF_TOKEN to a token of yours"
            ) from None
        except RevisionNotFoundError:
            raise RacError(f"{what}: the repository has no such commit; see its history") from None
        except RepositoryNotFoundError:
            raise RacError(
                f"{what} is not there, or private: check the name, and set HF_TOKEN if it is yours"
            ) from None
        except (LocalEntryNotFoundError, OfflineModeIsEnabled):
            if constants.HF_HUB_OFFLINE:
                raise RacError(
                    f"{what} is not in the cache, and HF_HUB_OFFLINE is set: {instead}"
                ) from None
            problem = f"{endpoint} cannot be reached"
        except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
            problem = public(" ".join(str(error).split()))[:200] or type(error).__name__
        if not problem:
            if not _matching(folder, patterns):
                raise RacError(f"{what} holds no file that matches {', '.join(patterns)}")
            return folder
        if wait is not None:
            print(f"{what}: {problem}; next try in {wait:g} s", flush=True)
            time.sleep(wait)
    raise RacError(f"{what}: {problem}; {instead}")


def public(text: str) -> str:
    """A text whose addresses say no user and no password."""
    return re.sub(r"//[^/@\s]+@", "//", text)


def _matching(folder: Path, patterns: list[str]) -> list[Path]:
    """The files of a snapshot that match."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and any(fnmatch.fnmatch(str(file.relative_to(folder)), pattern) for pattern in patterns)
    ]


def _damage(folder: Path, patterns: list[str]) -> str:
    """What is wrong with a file of a snapshot, which is removed from the cache; empty if nothing is.

    The cache calls a file by its hash: SHA-256 of a large file, git's SHA-1 of a small one.
    """
    for link in (file for file in _matching(folder, patterns) if file.is_symlink()):
        blob = link.resolve()
        if len(blob.name) == 64:
            digest = hashlib.sha256()
        elif len(blob.name) == 40:
            digest = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
        else:
            continue
        with blob.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        if digest.hexdigest() != blob.name:
            blob.unlink()
            link.unlink()
            return f"{link.relative_to(folder)} is not the file that the hub's hash is of"
    return ""
