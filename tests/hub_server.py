"""A server that speaks the Hugging Face hub's protocol as huggingface_hub uses it, with faults on request."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".parquet", ".gz")  # kept by SHA-256, as the hub's large files are


class Hub(ThreadingHTTPServer):
    """Repositories by name (`datasets/owner/name` for datasets), all at one commit.

    Attributes:
        url: for HF_ENDPOINT.
        repositories: name → folder.
        asked: how often each path was downloaded, and how many bytes were sent.
        faults: path → what its next downloads do: a status, "cut" (half of it), or "wrong" (other bytes).
        errors: repository → what any request gets: a status and the hub's code, such as GatedRepo.
        tokens: the Authorization headers that came.
    """

    daemon_threads = True
    commit = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Path] = {}
        self.faults: dict[str, list[int | str]] = {}
        self.errors: dict[str, tuple[int, str]] = {}
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.tokens: set[str | None] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        path = unquote(urlsplit(self.path).path).strip("/")
        if path.startswith("api/") and path.count("/") < 5:
            return self._fail(404, None)  # telemetry and the like
        if path.startswith("api/"):
            kind, owner, name, what, commit = path.removeprefix("api/").split("/")[:5]
            repository = f"{owner}/{name}" if kind == "models" else f"{kind}/{owner}/{name}"
            file = None
        else:
            repository, _, rest = path.partition("/resolve/")
            commit, _, file = rest.partition("/")
            what = "file"
        if repository in self.server.errors:
            return self._fail(*self.server.errors[repository])
        folder = self.server.repositories.get(repository)
        if folder is None:
            return self._fail(404, "RepoNotFound")
        if commit != self.server.commit:
            return self._fail(404, "RevisionNotFound")
        if what == "tree":
            found = sorted(f for f in folder.rglob("*") if f.is_file())
            return self._send(json.dumps([_entry(f, folder) for f in found]).encode(), body)
        if what == "revision":
            return self._send(json.dumps({"id": repository, "sha": commit}).encode(), body)
        assert file is not None
        if not (folder / file).is_file():
            return self._fail(404, "EntryNotFound")
        self._send_file(folder / file, file, body)

    def _send_file(self, path: Path, name: str, body: bool) -> None:
        content = path.read_bytes()
        entry = _entry(path, path.parent)
        etag = entry.get("lfs", {}).get("oid", entry["oid"])
        fault: int | str | None = None
        if body:
            self.server.asked[name] += 1
            waiting = self.server.faults.get(name, [])
            fault = waiting.pop(0) if waiting else None
        if isinstance(fault, int):
            return self._fail(fault, None)
        if fault == "wrong":
            content = bytes([content[0] ^ 1]) + content[1:]
        start, status = 0, 200
        if body and (asked := self.headers.get("Range")):
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
        part = content[start:]
        self.send_response(status)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", self.server.commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            part = part[: len(part) // 2] if fault == "cut" else part
            self.wfile.write(part)
            self.server.sent[name] += len(part)
        if fault == "cut":
            self.close_connection = True

    def _send(self, content: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _fail(self, status: int, code: str | None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _entry(file: Path, folder: Path) -> dict:
    """What the hub's tree says of a file."""
    content = file.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    path = str(file.relative_to(folder))
    entry: dict = {"type": "file", "path": path, "size": len(content), "oid": git}
    if path.endswith(LARGE):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry


@contextmanager
def running() -> Iterator[Hub]:
    """A hub on a port of this machine."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
