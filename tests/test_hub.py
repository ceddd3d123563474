"""Fetching Qwen2.5-Omni from a loopback server that answers as the Hugging Face Hub does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny_omni
import torch

from epcli.models.qwen_omni.hub import thinker_shards

REPO, COMMIT = "Qwen/Qwen2.5-Omni-7B", "0123456789abcdef0123456789abcdef01234567"
MB = 2**20
SHARDS = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]


class Hub:
    """A model repository on the loopback interface, with what can go wrong on the way."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.files["spk_dict.pt"] = b"voices"
        self.requests: list[tuple[str, str, str]] = []  # method, path, Range
        self.cuts: list[int] = []  # bytes after which the next answers with a shard break off; the last one for good
        self.spoil = False  # send other bytes than promised
        self.status = 200  # of the API
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def fetched(self) -> list[str]:
        """Names of the files of which a body was asked for."""
        return [path.rsplit("/", 1)[1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]

    def etag(self, name: str) -> str:
        content = self.files[name]
        kind = hashlib.sha256 if name.endswith(".safetensors") else hashlib.sha1  # large files and small ones
        return kind(content).hexdigest()

    def answer(self, handler: BaseHTTPRequestHandler, body: bool) -> None:
        path, wanted = handler.path.split("?")[0], handler.headers.get("Range", "")
        self.requests.append((handler.command, path, wanted))
        if match := re.fullmatch(rf"/{REPO}/resolve/[^/]+/(.+)", path):
            if match[1] in self.files:
                self.send_file(handler, match[1], wanted, body)
            else:
                self.send(handler, 404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        elif self.status != 200:
            error = {401: "RepoNotFound", 403: "GatedRepo"}.get(self.status, "")
            self.send(handler, self.status, b"{}", {"X-Error-Code": error}, body)
        elif re.fullmatch(rf"/api/models/{REPO}(/revision/[^/]+)?", path):
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": self.etag(name)} for name, data in self.files.items()
            ]
            self.send_json(handler, {"id": REPO, "sha": COMMIT, "siblings": siblings, "private": False}, body)
        elif path.startswith(f"/api/models/{REPO}/tree/"):
            tree = []
            for name, data in self.files.items():
                entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": self.etag(name)}
                if name.endswith(".safetensors"):
                    entry["lfs"] = {"oid": self.etag(name), "size": len(data), "pointerSize": 134}
                tree.append(entry)
            self.send_json(handler, tree, body)
        else:
            self.send(handler, 404, b"{}", {}, body)

    def send_json(self, handler: BaseHTTPRequestHandler, content: Any, body: bool) -> None:
        self.send(handler, 200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body)

    def send_file(self, handler: BaseHTTPRequestHandler, name: str, wanted: str, body: bool) -> None:
        data = self.files[name]
        headers = {"ETag": f'"{self.etag(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if name.endswith(".safetensors"):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
        code, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", wanted):
            code, start = 206, int(match[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        if self.spoil and name.endswith(".safetensors"):
            part = bytes(len(part))
        self.send(handler, code, part, headers, body, self.cut(name) if body else None)

    def cut(self, name: str) -> int | None:
        """Bytes of the body to send; None for all."""
        if not name.endswith(".safetensors") or not self.cuts:
            return None
        return self.cuts.pop(0) if len(self.cuts) > 1 else self.cuts[0]

    @staticmethod
    def send(
        handler: BaseHTTPRequestHandler,
        code: int,
        content: bytes,
        headers: dict[str, str],
        body: bool,
        cut: int | None = None,
    ) -> None:
        handler.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if body:
            handler.wfile.write(content[:cut])
            if cut is not None and cut < len(content):
                handler.close_connection = True


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("hub") / "repo", sharded=True)


@pytest.fixture
def hub(weights: Path) -> Iterator[Hub]:
    served = Hub(weights)
    yield served
    served.server.shutdown()


def ep(hub: Hub, home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`ep` in a process of its own, with a Hugging Face cache of its own."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "EP_", "HUGGING"))}
    return subprocess.run(
        [sys.executable, "-c", "from epcli.cli import main; main()", *arguments],
        env=clean
        | {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1", "EP_THREADS": "1"}
        | settings,
        capture_output=True,
        text=True,
        timeout=900,
    )


def assert_refused(run: subprocess.CompletedProcess[str], message: str) -> None:
    assert run.returncode == 5, run.stderr
    assert message in run.stderr.splitlines()[-1], run.stderr
    assert "Traceback" not in run.stderr


def test_shards_without_any_of_the_thinker_are_known_from_the_index():
    index = {"weight_map": {"thinker.a": "1", "thinker.b": "2", "talker.a": "2", "talker.b": "3", "token2wav.c": "3"}}
    assert thinker_shards(index) == ["1", "2"]


@pytest.mark.slow
def test_pull_goes_on_where_it_broke_off_and_skips_what_is_not_needed(hub: Hub, tmp_path: Path):
    assert ep(hub, tmp_path, "models", "ls").stdout.count("not downloaded") >= 2
    # huggingface_hub writes ten megabytes at a time, so that is what it can go on from.
    larger = safetensors.torch.load(hub.files[SHARDS[0]])
    larger["talker.large"] = torch.frombuffer(bytearray(os.urandom(25 * MB)), dtype=torch.uint8)
    hub.files[SHARDS[0]] = safetensors.torch.save(larger, {"format": "pt"})
    hub.cuts = [11 * MB, 12 * MB, 0]  # two answers that break off, then nothing more
    broken = ep(hub, tmp_path, "models", "pull", "qwen2.5-omni-7b")
    assert_refused(broken, "qwen2.5-omni-7b: ")
    parts = list(tmp_path.rglob("*.ep-part"))
    assert len(parts) == 1
    arrived = parts[0].stat().st_size
    assert arrived == 20 * MB
    assert [wanted for method, path, wanted in hub.requests if method == "GET" and path.endswith(SHARDS[0])][:3] == [
        "",
        f"bytes={10 * MB}-",
        f"bytes={20 * MB}-",
    ]

    hub.cuts = []
    hub.requests.clear()
    done = ep(hub, tmp_path, "models", "pull", "qwen2.5-omni-7b")
    assert done.returncode == 0, done.stderr
    ranges = [wanted for method, path, wanted in hub.requests if method == "GET" and path.endswith(SHARDS[0])]
    assert ranges == [f"bytes={arrived}-"]  # the rest of the first shard, once
    assert SHARDS[1] in hub.fetched()
    assert SHARDS[2] not in hub.fetched()  # talker and token2wav only
    assert "spk_dict.pt" not in hub.fetched()
    assert not list(tmp_path.rglob("*.ep-part*"))
    for name in SHARDS[:2]:
        assert next(tmp_path.rglob(name)).read_bytes() == hub.files[name]
    assert "qwen2.5-omni-7b is ready" in done.stderr

    # From here on without a network: it is all here.
    hub.requests.clear()
    shown = ep(hub, tmp_path, "models", "show", "qwen2.5-omni-7b", HF_HUB_OFFLINE="1").stdout
    assert re.search(r"status +ready", shown)
    assert "Apache-2.0" in shown
    assert "non-commercial" in ep(hub, tmp_path, "models", "show", "qwen2.5-omni-3b").stdout
    assert hub.requests == []

    # A shard goes missing: said, and answered with what to do.
    next(tmp_path.rglob(SHARDS[1])).unlink()
    listed = ep(hub, tmp_path, "models", "ls").stdout
    assert "qwen2.5-omni-7b: partly downloaded" in listed
    removed = ep(hub, tmp_path, "models", "rm", "qwen2.5-omni-7b")
    assert "freed" in removed.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_a_shard_that_arrives_damaged_is_thrown_away(hub: Hub, tmp_path: Path):
    hub.spoil = True
    assert_refused(ep(hub, tmp_path, "models", "pull", "qwen2.5-omni-7b"), "arrived damaged")
    assert not list(tmp_path.rglob("*.ep-part"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "has no Qwen/Qwen2.5-Omni-7B, or it wants a token"), (403, "accept the licence"), (503, "answered 503")],
)
def test_what_the_hub_refuses_is_one_line(hub: Hub, tmp_path: Path, status: int, message: str):
    hub.status = status
    assert_refused(ep(hub, tmp_path, "models", "pull", "qwen2.5-omni-7b"), message)


@pytest.mark.slow
def test_without_a_hub_or_offline_it_says_so(hub: Hub, tmp_path: Path):
    run = ep(hub, tmp_path, "models", "pull", "qwen2.5-omni-7b", HF_HUB_OFFLINE="1")
    assert_refused(run, "HF_HUB_OFFLINE is set")
    run = ep(hub, tmp_path, "models", "pull", "qwen2.5-omni-7b", HF_ENDPOINT="http://127.0.0.1:9")
    assert_refused(run, "qwen2.5-omni-7b: ")
    clip = tmp_path / "tone.wav"
    clip.write_bytes(b"RIFF")
    asked = ep(hub, tmp_path, "ask", str(clip), "What?", "--model", "qwen2.5-omni-7b")
    assert asked.returncode != 0
    assert "Traceback" not in asked.stderr
