"""The downloader among mirrors that misbehave, and processes that are killed."""

from __future__ import annotations

import contextlib
import gzip
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import astuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import json_lines
from toy_data import BOMB, CONTENT, FAULTY, IMAGES, LABELS, PIXELS, ROOT, TOY, ZIPPED, _toy, put  # noqa: F401

from harness.base.errors import BenchError, InvalidSetting, WorkspaceError
from harness.datasets import download
from harness.datasets import files as data
from harness.datasets.download import FetchFailed, fetch
from harness.datasets.files import verify
from harness.tasks._idx import load_images


class Mirror(BaseHTTPRequestHandler):
    """A mirror whose first folder says how it behaves."""

    def log_message(self, *_):
        """Nothing."""

    def do_GET(self):
        """Serve the file in the manner asked for."""
        manner, name = self.path.strip("/").split("/")
        name = name.removesuffix(".gz")
        self.server.asked.append((manner, name))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, f"serve_{manner}")(name)

    def send(self, content: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def serve_good(self, name):
        self.send(ZIPPED[name])

    def serve_plain(self, name):
        self.send(CONTENT[name])

    def serve_unsized(self, name):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ZIPPED[name])

    def serve_truncated(self, name):
        self.send(ZIPPED[name][:-50])

    def serve_broken(self, name):
        self.send(ZIPPED[name][:500], len(ZIPPED[name]))

    def serve_corrupted(self, name):
        self.send(gzip.compress(CONTENT[name][:-1] + bytes([CONTENT[name][-1] ^ 1])))

    def serve_html(self, name):
        self.send(b"<html>Sign in to the network</html>")

    def serve_bomb(self, name):
        self.send((ZIPPED[name] + BOMB)[:200_000])

    def serve_huge(self, name):
        self.send(b"", 2**40)

    def serve_endless(self, name):
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(os.urandom(2**16))

    def serve_silent(self, name):
        self.server.released.wait(20)

    def serve_stalling(self, name):
        self.send(ZIPPED[name][:100], len(ZIPPED[name]))
        self.server.released.wait(20)

    def serve_dripping(self, name):
        self.send(b"", len(ZIPPED[name]))
        while not self.server.released.wait(0.05):
            self.wfile.write(b"\x1f")
            self.wfile.flush()

    def serve_waiting(self, name):
        """Half of it, and the rest when the test says so."""
        half = len(ZIPPED[name]) // 2
        self.send(ZIPPED[name][:half], len(ZIPPED[name]))
        self.server.released.wait(120)
        self.wfile.write(ZIPPED[name][half:])

    def serve_absent(self, name):
        self.send_error(404)

    def redirect(self, address):
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def serve_moved(self, name):
        self.redirect(f"/good/{name}.gz")

    def serve_circling(self, name):
        self.redirect(f"/circling/{name}.gz")

    def serve_elsewhere(self, name):
        self.redirect(f"file:///etc/{name}")


@pytest.fixture
def server():
    """The mirror; `asked` has what was asked of it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as serving:
        serving.asked, serving.released = [], threading.Event()
        thread = threading.Thread(target=serving.serve_forever, args=(0.02,))
        thread.start()
        yield serving
        serving.released.set()
        serving.shutdown()
        thread.join()


@pytest.fixture
def at(server):
    """The address of a mirror that behaves in a manner."""
    return lambda manner: f"http://127.0.0.1:{server.server_port}/{manner}/"


@pytest.fixture
def impatient(monkeypatch):
    """Limits that a test can wait for."""
    monkeypatch.setattr(download, "TIMEOUT_S", 2.0)
    monkeypatch.setattr(download, "STALL_S", 1.0)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WHOLE = {f"{name}.gz": content for name, content in ZIPPED.items()}


@pytest.mark.parametrize("manner", ["good", "moved", "unsized"])
def test_what_is_missing_is_fetched_and_then_kept(manner, at, server, tmp_path):
    seen = []
    fetched = list(fetch("toy", mirrors=[at(manner)], progress=lambda *news: seen.append(news)))
    assert content_of(tmp_path / "data") == WHOLE
    assert [one.new for one in fetched] == [True, True]
    assert {name: got for name, _, got, _ in seen} == {
        name: len(content) for name, content in ZIPPED.items()
    }
    asked = len(server.asked)
    assert [one.new for one in fetch("toy", mirrors=[at(manner)])] == [False, False]
    (tmp_path / "data" / "toy" / f"{LABELS}.gz").unlink()
    assert sorted((one.path.name, one.new) for one in fetch("toy", mirrors=[at("good")])) == [
        (f"{IMAGES}.gz", False),
        (f"{LABELS}.gz", True),
    ]
    assert len(server.asked) == asked + 1
    assert np.array_equal(load_images("toy", "train"), PIXELS)


def test_a_mirror_that_unpacks_gives_a_file_without_gz(at, tmp_path):
    list(fetch("toy", mirrors=[at("plain")]))
    assert content_of(tmp_path / "data") == CONTENT


BAD = {
    "truncated": "is cut short",
    "broken": r"broke off after 500 of [\d,]+ bytes",
    "corrupted": "the sha256 of its decompressed bytes",
    "html": "35 bytes when decompressed, not",
    "bomb": "more than [\\d,]+ bytes",
    "huge": r"serves 1,099,511,627,776 bytes, where 236,475 are the most",
    "endless": r"serves more than 236,475 bytes",
    "silent": "does not answer within 2 s",
    "stalling": "does not answer within 2 s",
    "dripping": r"stalls: \d+ bytes came in [1-3]\.?\d* s",
    "absent": "answers 404 Not Found",
    "circling": "answers 302 .* infinite loop",
    "elsewhere": "answers 302 .* not allowed",
}


SLOW = ("silent", "stalling", "dripping")


@pytest.mark.parametrize("manner", BAD)
def test_a_bad_mirror_is_named_and_the_next_one_serves(manner, at, server, request, tmp_path):
    if manner in SLOW:
        request.getfixturevalue("impatient")
    said = []
    list(fetch("toy", mirrors=[at(manner), at("good")], say=said.append))
    assert content_of(tmp_path / "data") == WHOLE
    assert re.search(BAD[manner], said[0])
    assert f"/{manner}/{IMAGES}.gz" in said[0]
    (tmp_path / "data" / "toy" / f"{IMAGES}.gz").unlink()
    with pytest.raises(FetchFailed, match=BAD[manner]) as raised:
        list(fetch("toy", mirrors=[at("absent"), at(manner)]))
    assert "put a copy into" in str(raised.value)
    assert content_of(tmp_path / "data") == {f"{LABELS}.gz": ZIPPED[LABELS]}


def test_a_mirror_that_is_not_there_is_named(tmp_path, bench):
    failed = bench("data", "fetch", "toy")
    assert failed.exit_code == 1
    assert re.fullmatch(
        rf"bench: No mirror gives {IMAGES} of toy: "
        rf"http://127.0.0.1:9/{IMAGES}.gz fails: Connection refused\. .*\n",
        failed.stderr,
    )


@pytest.mark.parametrize(
    "address",
    [
        "ftp://a/b",
        "a/b",
        "https://",
        "http://a:b",
        "http://[a",
        "http://a/?b=",
        "http://a/ b",
        "http://u:secret@a",
    ],
)
def test_what_is_no_mirror_is_refused_before_anything_is_done(address, tmp_path):
    with pytest.raises(InvalidSetting, match="is not a mirror's address") as raised:
        list(fetch("toy", mirrors=[address]))
    assert "secret" not in str(raised.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", [f"{IMAGES}.gz", IMAGES, "train-images.idx3-ubyte"])
def test_other_bytes_stay_until_they_are_forced_out(name, at, server, tmp_path, bench):
    folder = put(tmp_path / "data" / "toy", {name: b"precious", "notes.txt": b"mine"})
    refused = bench("data", "fetch", "toy", "--mirror", at("good"))
    assert refused.exit_code == 2
    assert f"{folder / name} is not {IMAGES} of toy" in refused.stderr
    assert "--force" in refused.stderr
    assert (server.asked, content_of(folder)) == ([], {name: b"precious", "notes.txt": b"mine"})
    assert bench("data", "fetch", "toy", "--mirror", at("absent"), "--force").exit_code == 1
    assert (folder / name).read_bytes() == b"precious"
    forced = bench("data", "fetch", "toy", "--mirror", at("good"), "--force", "--json")
    assert [line["fetched"] for line in json_lines(forced)] == [True, True]
    assert content_of(folder) == WHOLE | {"notes.txt": b"mine"}


def test_a_folder_that_cannot_be_made_is_one_clear_line(at, tmp_path, bench):
    (tmp_path / "data").write_text("a file")
    failed = bench("data", "fetch", "toy", "--mirror", at("good"))
    assert (failed.exit_code, len(failed.stderr.splitlines())) == (1, 1)
    assert f"Cannot write to {tmp_path / 'data' / 'toy'}" in failed.stderr


def test_without_space_nothing_half_written_stays(at, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    if (
        os.getuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
        ).returncode
    ):
        pytest.skip("only root can mount a small disk")
    try:
        with pytest.raises(
            WorkspaceError,
            match=r"No space left on device\. Free some space or choose another folder",
        ):
            list(fetch("toy", mirrors=[at("good")]))
        assert content_of(folder) == {}
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# processes


START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from harness.datasets import files as data
from harness.cli import main
data.KNOWN["toy"] = data.DataSet("toy", "A toy", tuple(data.DataFile(*one) for one in {files}), ())
main(["data", "fetch", "toy", "--mirror", *sys.argv[1:]])
"""


def start(address: str, stderr: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
    """`bench data fetch toy` in a process of its own."""
    code = START.format(files=[astuple(file) for file in TOY])
    path = os.pathsep.join(filter(None, [environment.pop("PATH_FIRST", ""), str(ROOT)]))
    return subprocess.Popen(
        [sys.executable, "-c", code, address],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def wait_for(happened, patience_s: float = 30) -> None:
    ends = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_of_two_processes_one_downloads_and_the_other_finds_the_files(at, server, tmp_path):
    first = start(at("waiting"))
    wait_for(lambda: server.asked)
    second = start(at("good"))
    assert "waiting for it" in second.stderr.readline()
    server.released.set()
    ended = [(process.communicate(timeout=120), process.returncode) for process in (first, second)]
    assert [status for _, status in ended] == [0, 0]
    assert [out.split()[::2] for (out, _), _ in ended] == [
        ["fetched", "fetched"],
        ["present", "present"],
    ]
    assert server.asked == [("waiting", IMAGES), ("waiting", LABELS)]
    assert content_of(tmp_path / "data") == WHOLE


def test_killed_while_it_downloads_the_same_command_starts_over(at, server, tmp_path):
    folder = tmp_path / "data" / "toy"
    process = start(at("waiting"))
    wait_for(lambda: any(folder.glob(".*.part")))
    process.kill()
    process.communicate()
    assert sorted(path.name.partition(".")[0] for path in folder.iterdir()) == [
        "",
        "",
    ]  # a part and the lock, both hidden
    assert [item.state for item in verify("toy")] == ["missing", "missing"]
    list(fetch("toy", mirrors=[at("good")]))
    assert content_of(tmp_path / "data") == WHOLE


def test_ctrl_c_leaves_nothing_behind(at, server, tmp_path):
    process = start(at("waiting"))
    wait_for(lambda: any((tmp_path / "data" / "toy").glob(".*.part")))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said.splitlines()[-1]) == (130, "Interrupted.")
    assert content_of(tmp_path / "data") == {}


@pytest.mark.parametrize(
    "place", ["fsync:[.]part:1", "replace:toy/train:1", "-replace:toy/train:1", "fsync:toy$:1"]
)
def test_killed_at_a_chosen_place_a_file_is_whole_or_not_there(place, at, tmp_path):
    mark = tmp_path / "mark"
    process = start(at("good"), PATH_FIRST=FAULTY, FAULT=place, FAULT_MARK=str(mark))
    process.communicate(timeout=120)
    assert (process.returncode, mark.exists()) == (-9, True)
    assert {item.state for item in verify("toy")} <= {"missing", "right"}
    list(fetch("toy", mirrors=[at("good")]))
    assert content_of(tmp_path / "data") == WHOLE


def test_a_terminal_sees_a_bar(at, tmp_path):
    ours, theirs = pty.openpty()
    process = start(at("good"), theirs, TERM="xterm", COLUMNS="120")
    os.close(theirs)
    out, _ = process.communicate(timeout=120)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while block := os.read(ours, 2**16):
            shown += block
    os.close(ours)
    assert out.count("fetched") == 2
    assert IMAGES in shown.decode()
    assert "MB/s" in shown.decode() or "kB" in shown.decode()


def test_every_error_is_one_of_ours():
    assert issubclass(FetchFailed, BenchError)
    assert FetchFailed.exit_status == 1
    assert data.data_set("mnist").files[0].size == 47_040_016
