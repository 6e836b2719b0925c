"""The download from a model hub, by the real client, from a server on this machine that answers as a hub does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": json.dumps({"hidden_size": 384, "max_position_embeddings": 512}).encode(),
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
    "modeling_own.py": b"raise SystemExit",
    "onnx/model.safetensors": b"another format",
}
SCRIPT = """
import sys
from pathlib import Path
from llmrec_pipeline.config import EncoderConfig
from llmrec_pipeline.encoding import Choice, resolve
from llmrec_pipeline.errors import ModelError
try:
    spec = resolve(EncoderConfig(source="hub:someone/model", revision=sys.argv[1]), Choice("torch", "fp32"))
    print(spec.revision, spec.weights_sha256, *sorted(path.name for path in Path(spec.folder).rglob("*")))
except ModelError as error:
    print("ModelError", error)
"""


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.removeprefix(f"/someone/model/resolve/{REVISION}/")
        if self.path.startswith(f"/api/models/someone/model/tree/{REVISION}"):
            tree = [
                {"type": "file", "path": path, "size": len(body), "oid": sha256(body).hexdigest()} for path, body in FILES.items()
            ]
            self.answer(200, json.dumps(tree).encode())
        elif name in FILES:
            self.answer(200, FILES[name])
        else:
            self.answer(404, b"")

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        if status == 404:
            self.send_header("X-Error-Code", "RevisionNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def resolve_from(endpoint: str, home: Path, revision: str = REVISION, offline: str = "0") -> str:
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": offline}
    environment = os.environ | proxies | settings
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, revision], capture_output=True, text=True, check=True, env=environment, timeout=600
    )
    return done.stdout.strip()


def test_a_pinned_revision_is_downloaded_without_pickles_code_or_other_formats(hub: str, tmp_path: Path) -> None:
    revision, weights, *files = resolve_from(hub, tmp_path).split()
    assert (revision, weights) == (REVISION, sha256(b"weights").hexdigest())
    assert files == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_downloaded_revision_is_read_again_without_the_hub(hub: str, tmp_path: Path) -> None:
    first = resolve_from(hub, tmp_path)
    assert first.startswith(REVISION)
    assert resolve_from("http://127.0.0.1:9", tmp_path, offline="1") == first


def test_a_revision_that_the_hub_lacks_is_named(hub: str, tmp_path: Path) -> None:
    message = resolve_from(hub, tmp_path, "f" * 40)
    assert message.startswith(f"ModelError hub:someone/model at {'f' * 40} could not be downloaded (RevisionNotFoundError")
    assert message.endswith("check id, revision and network, or give encoder.source a local folder")
