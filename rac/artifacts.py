"""Files that are whole or absent: atomic writes, part files that survive a kill, hashes, locks."""

import contextlib
import fcntl
import glob
import hashlib
import io
import itertools
import json
import os
import platform
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import zstandard
from safetensors import SafetensorError

from rac.errors import RacError

LOCK = ".lock"  # in a folder of parts
PARTS = "part-*.jsonl.zst"
LOOK = 0.3  # seconds for which a lock is asked for: who only looks holds it for an instant
UMASK = os.umask(0)
os.umask(UMASK)
HOST = re.sub(r"\W", "_", platform.node())  # of a disk that several machines share


def _fsync(path: Path) -> None:
    if not path.is_symlink() and path.is_file():
        path.chmod(0o666 & ~UMASK)  # some writers make files that only their owner can read
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line that names `path`, or the file that was read."""
    try:
        yield
    except OSError as error:
        other = (
            Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
        )
        what = f"write {path}" if _is_of(other, path) else f"read {other}"
        raise RacError(f"cannot {what}: {error.strerror or error}") from error
    except SafetensorError as error:
        if "I/O error" not in str(error):  # it is about a tensor, not about the file system
            raise
        raise RacError(f"cannot write {path}: {error}") from error


def _is_of(file: Path, path: Path) -> bool:
    """Whether a file is `path`, in it, above it, or one that is to become it."""
    if file == path or path in file.parents or file in path.parents:
        return True
    return any(
        each.parent == path.parent and each.name.startswith(f".{path.name}.")
        for each in (file, *file.parents)
    )


def _temporary(path: Path) -> Path:
    """A name beside `path` for this process; what killed processes left there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        host, _, process = left.name.removesuffix(".tmp").rpartition(".")[2].rpartition("-")
        if host == HOST and process.isdigit() and not _alive(int(process)):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`.

    After an exception or a kill, `path` is what it was before.

    Raises:
        RacError: the file system refuses (disk full, read-only, …), with the path.
    """
    path = Path(path)
    with _write_errors(path):
        temporary = _temporary(path)
        try:
            yield temporary
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success its files are fsynced and it replaces `path`.

    Raises:
        RacError: the file system refuses (disk full, read-only, …), or a file is there, with the path.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise RacError(f"{path} is a file or a link where a folder is to be written: remove it")
    with _write_errors(path):
        temporary = _temporary(path)
        old = temporary.with_name(f".{path.name}.old.{HOST}-{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            for file in [*temporary.rglob("*"), temporary]:
                _fsync(file)
            if path.exists():
                path.replace(old)
            temporary.replace(path)
            _fsync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RacError: missing, unreadable or not JSON, with the path.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RacError(f"{path} is missing") from None
    except OSError as error:
        raise RacError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise RacError(f"{path} is damaged: {error}; delete it to have it made again") from None


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write `rows`, one JSON object a line, atomically; zstandard-compressed where the name ends in .zst."""
    with atomic_file(path) as temporary, temporary.open("wb") as raw:
        if str(path).endswith(".zst"):
            with zstandard.ZstdCompressor(level=6, write_checksum=True).stream_writer(
                raw, closefd=False
            ) as stream:
                _write_lines(stream, rows)
        else:
            _write_lines(raw, rows)


def _write_lines(stream: Any, rows: Iterable[dict]) -> None:
    for row in rows:
        stream.write(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n")


def read_jsonl(path: Path) -> list[dict]:
    """Read what `write_jsonl` wrote.

    Raises:
        RacError: missing, unreadable, cut or not JSON lines, with the path.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RacError(f"{path} is missing") from None
    except OSError as error:
        raise RacError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        return _parsed(_decompressed(content) if path.name.endswith(".zst") else content)
    except ValueError as error:
        raise RacError(f"{path} is damaged: {error}; delete it to have it made again") from None


def _parsed(content: bytes) -> list[dict]:
    """The rows of JSON lines; blank lines are skipped.

    Raises:
        ValueError: a line is not a JSON object.
    """
    rows = [json.loads(line) for line in io.BytesIO(content) if line.strip()]
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"row {i} is not a JSON object")
    return rows


def _decompressed(content: bytes) -> bytes:
    """All frames of a zstandard file; the library says nothing when the last one is cut."""
    whole = []
    while True:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            whole.append(frame.decompress(content))
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
        if not frame.eof:
            raise ValueError("the file is cut")
        if not (content := frame.unused_data):
            return b"".join(whole)


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_files(files: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Each file and its SHA-256, in their order.

    The next ones, one a processor, are hashed while what was yielded is used; no more, so that what is
    read then is still in memory.
    """
    count = processors()
    pool, hashed = ThreadPoolExecutor(count), deque[tuple[Path, Future[str]]]()
    try:
        for file in files:
            hashed.append((file, pool.submit(sha256_file, file)))
            if len(hashed) > count:
                first, future = hashed.popleft()
                yield first, future.result()
        yield from ((file, future.result()) for file, future in hashed)
    finally:
        pool.shutdown(cancel_futures=True)


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of `value` as canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def parts(
    work: Path,
    header: dict,
    compute: Callable[[list[dict]], Iterable[Iterable[dict]]],
    shards: Iterable[Path] = (),
) -> Iterator[list[dict]]:
    """Yield the rows of the parts that are there already, then those of what `compute` adds to them.

    A part is a file, fsynced before it counts, so a kill loses the part in flight and nothing else. Its
    name says the hash of `header` (parameters, code and inputs): parts of another header are thrown away,
    and so is a part that is damaged; standard error says so. header.json is for people to read.

    Args:
        work: the folder.
        header: what the rows hang on.
        compute: called with all stored rows once they are read; gives the rows of one part after another.
        shards: folders of parts that other jobs made, to take parts from as well.

    Raises:
        RacError: a shard is missing, or its parts are of another header; or another process works in `work`.
    """
    identity = sha256_json(header)[:16]
    for shard in shards:
        if not shard.is_dir() or any(identity not in part.name for part in shard.glob(PARTS)):
            raise RacError(
                f"{shard} is of another definition, code or input; delete it to have it made again"
            )
    with _alone(work):
        old = [file for file in work.glob("*part-*") if identity not in file.name]
        if old:
            print(f"{work}: parts of another definition or code are thrown away", file=sys.stderr)
            for file in old:
                file.unlink()
        write_json(work / "header.json", header)
        stored = []
        for folder in (*shards, work):
            for part in sorted(folder.glob(PARTS)):
                try:
                    rows = read_jsonl(part)
                except RacError as error:
                    print(f"{error}: what it held is made again now", file=sys.stderr)
                    if folder == work:
                        part.unlink()
                    continue
                stored += rows
                yield rows
        names = (work / f"part-{i:05d}-{identity}.jsonl.zst" for i in itertools.count())
        free = (name for name in names if not name.exists())
        for part, new in zip(free, compute(stored), strict=False):
            write_jsonl(part, new)
            yield read_jsonl(part)


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Make a folder of parts and keep other processes out of it."""
    with _write_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RacError(
                f"{work}: another job works on the same; end it first (has its workflow left it?)"
            ) from None
        yield
    finally:
        os.close(descriptor)


def hold(path: Path) -> None:
    """Hold the lock file `path` until this process ends, however it ends.

    Raises:
        RacError: another process holds it.
    """
    path = Path(path)
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + LOOK
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.read(descriptor, 20).decode() or "unknown"
                    raise RacError(
                        f"another workflow runs in this folder (process {holder}): wait for it"
                    ) from None
            time.sleep(0.05)
    except OSError as error:
        raise RacError(f"cannot lock {path}: {error.strerror}") from None
    os.truncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
