"""Data files: IDX faults, finding and verifying, and a downloader among mirrors that misbehave."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import pickle
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from dataclasses import astuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import json_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import data, download
from harness.data import KNOWN, DataFile, DataSet, fault_of, find_data, verify
from harness.download import FetchFailed, fetch
from harness.errors import BenchError, DataError, InvalidSetting, UnknownName, WorkspaceError
from tasks._idx import LARGEST, load_images, read

ROOT = Path(__file__).parent.parent
FAULTY = str(Path(__file__).with_name("faulty"))
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


RANDOM = np.random.default_rng(0)
PIXELS = np.where(RANDOM.random((300, 28, 28)) < 0.3, RANDOM.integers(0, 256, (300, 28, 28)), 0).astype(np.uint8)
CONTENT = {IMAGES: idx(PIXELS), LABELS: idx(PIXELS[:, 14, 14])}
TOY = tuple(DataFile("toy", name, len(content), hashlib.sha256(content).hexdigest()) for name, content in CONTENT.items())
ZIPPED = {name: gzip.compress(content, 1) for name, content in CONTENT.items()}
BOMB = gzip.compress(bytes(2**24)) * 64  # a gibibyte of zeros


@pytest.fixture(autouse=True)
def _toy(monkeypatch, tmp_path):
    """A small data set, and a data folder that is empty."""
    monkeypatch.setitem(KNOWN, "toy", DataSet("toy", "A toy", TOY, ("http://127.0.0.1:9/",)))
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def put(folder: Path, content: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in content.items():
        (folder / name).write_bytes(one)
    return folder


# IDX


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:])])
def test_what_was_written_is_read_whatever_its_name_and_wrapper(pack, tmp_path):
    for array in (PIXELS, PIXELS[:, 14, 14]):
        (tmp_path / "file.bin").write_bytes(pack(idx(array)))
        found = read(tmp_path / "file.bin", array.ndim)
        assert (found.dtype, found.shape, np.array_equal(found, array)) == (np.uint8, array.shape, True)


SMALL = idx(PIXELS[:2])
FAULTS = {
    "empty": (b"", "0 of the 4 bytes"),
    "cut in the sizes": (SMALL[:11], "7 of the 12 bytes"),
    "one byte short": (SMALL[:-1], "1,567 of the 1,568 bytes"),
    "one byte too many": (SMALL + b"\0", "goes on after"),
    "another kind of file": (b"<!DOCTYPE html><html>", "begins with 3c 21 44 4f"),
    "another type": (b"\0\0\x0d\3" + SMALL[4:], "float32, not uint8"),
    "labels": (CONTENT[LABELS], "holds labels (1 dimension), not images (3 dimensions)"),
    "no image": (idx(PIXELS[:0]), "claims to hold 0 x 28 x 28 bytes"),
    "a product beyond 64 bits": (b"\0\0\x08\3" + b"\xff" * 12, "4,294,967,295 x 4,294,967,295"),
    "gzip cut short": (gzip.compress(SMALL)[:-300], "is cut short"),
    "gzip without its sum": (gzip.compress(SMALL)[:-4], "is cut short"),
    "gzip with another sum": (gzip.compress(SMALL)[:-8] + b"\0" * 8, "is damaged"),
    "gzip with bad data": (gzip.compress(SMALL)[:10] + b"\x07" * 400, "is damaged"),
    "gzip with something behind": (gzip.compress(SMALL) + b"<html>", "is damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_the_file_and_a_remedy(fault, tmp_path):
    content, reason = FAULTS[fault]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(reason)) as raised:
        read(tmp_path / "file", 3)
    assert str(raised.value).startswith(str(tmp_path / "file"))
    assert str(raised.value).endswith("Put a good copy in its place.")
    assert (raised.value.exit_status, str(pickle.loads(pickle.dumps(raised.value)))) == (2, str(raised.value))


def test_images_in_place_of_labels_and_what_cannot_be_opened(tmp_path):
    (tmp_path / "file").write_bytes(SMALL)
    with pytest.raises(DataError, match=re.escape("holds images (3 dimensions), not labels")):
        read(tmp_path / "file", 1)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(tmp_path / "absent", 1)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read(tmp_path, 1)


@pytest.mark.parametrize(
    "content",
    [b"\0\0\x08\3" + struct.pack(">3I", LARGEST // 784, 28, 28), gzip.compress(SMALL[:-1]) + BOMB, gzip.compress(b"\0\0\x08\3") + BOMB],
)
def test_neither_a_claim_nor_a_bomb_takes_memory(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read(tmp_path / "file", 3)
        assert fault_of(tmp_path / "file", TOY[0]) is not None
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def mutated(content: bytes, edits: list[tuple[int, int]], cut: int, tail: bytes) -> bytes:
    changed = bytearray(content)
    for place, value in edits:
        changed[place % len(changed)] = value
    return bytes(changed[: max(0, len(changed) - cut)]) + tail


EDITS = st.lists(st.tuples(st.one_of(st.integers(0, 20), st.integers(0, 2000)), st.integers(0, 255)), max_size=4)
CUT = st.one_of(st.just(0), st.integers(0, 2000))


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(EDITS, CUT, st.binary(max_size=3), st.booleans(), EDITS, st.sampled_from([1, 3]))
def test_any_bytes_are_an_array_or_a_data_error(edits, cut, tail, zipped, wrapper_edits, n_dims):
    inner = mutated(SMALL, edits, cut, tail)
    content = mutated(gzip.compress(inner, 1), wrapper_edits, 0, b"") if zipped else inner
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            array = read(Path(file.name), n_dims)
        except DataError:
            return
    assert (array.dtype, array.ndim) == (np.uint8, n_dims)
    assert idx(array) == inner or zipped


# finding and verifying


def test_a_missing_file_says_what_to_put_where_and_what_fetches_it(tmp_path, bench):
    with pytest.raises(DataError) as raised:
        load_images("mnist", "train")
    message = str(raised.value)
    assert f"{IMAGES} of mnist is missing: looked in {tmp_path / 'data' / 'mnist'}" in message
    assert "bench data fetch mnist" in message
    assert f"put {IMAGES}.gz (or {IMAGES}) into {tmp_path / 'data' / 'mnist'}" in message
    with pytest.raises(UnknownName, match="Did you mean 'mnist'"):
        find_data("mnst", IMAGES)
    with pytest.raises(UnknownName, match="Did you mean"):
        find_data("mnist", "train-images")


@pytest.mark.parametrize("name", [IMAGES, f"{IMAGES}.gz", "train-images.idx3-ubyte", "train-images.idx3-ubyte.gz"])
@pytest.mark.parametrize("content", [CONTENT, ZIPPED], ids=["plain", "gzip"])
def test_images_are_found_under_every_name(name, content, tmp_path):
    put(tmp_path / "data" / "toy", {name: content[IMAGES]})
    images = load_images("toy", "train")
    assert np.array_equal(images, PIXELS)
    assert not images.flags.writeable
    assert load_images("toy", "train") is images


def test_a_file_that_changes_is_read_and_checked_again(tmp_path):
    folder = put(tmp_path / "data" / "toy", {IMAGES: CONTENT[IMAGES]})
    load_images("toy", "train")
    put(folder, {IMAGES: CONTENT[IMAGES][:-1] + bytes([CONTENT[IMAGES][-1] ^ 1])})
    with pytest.raises(DataError, match=r"the sha256 of its decompressed bytes is .* Replace it: bench data fetch toy --force$"):
        load_images("toy", "train")


WRONG = {
    "labels": (CONTENT[LABELS], "holds labels (1 dimension), not images", "it holds train-labels-idx1-ubyte of toy"),
    "fewer images": (idx(PIXELS[:7]), "it has 5,504 bytes when decompressed, not 235,216", "it has 5,504 bytes"),
    "more images": (idx(np.concatenate([PIXELS, PIXELS])), "it has more than 235,216 bytes", "it has more than 235,216 bytes"),
    "cut short": (ZIPPED[IMAGES][:-1000], "is cut short", "is cut short"),
    "a bomb": (gzip.compress(CONTENT[IMAGES]) + BOMB, "more than 235,216 bytes", "more than 235,216 bytes"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_refused_by_tasks_and_by_verify(kind, tmp_path, bench):
    content, loading, verifying = WRONG[kind]
    put(tmp_path / "data" / "toy", {f"{IMAGES}.gz": content})
    with pytest.raises(DataError, match=re.escape(loading)):
        load_images("toy", "train")
    wrong, missing = verify("toy")
    assert (wrong.state, missing.state) == ("wrong", "missing")
    assert verifying in wrong.reason


def test_verify_and_list_say_what_is_there(tmp_path, bench):
    put(tmp_path / "other" / "toy", {IMAGES: CONTENT[IMAGES], f"{LABELS}.gz": ZIPPED[LABELS]})
    right = bench("data", "verify", "toy", "--data", str(tmp_path / "other"), "--json")
    assert (right.exit_code, [line["state"] for line in json_lines(right)]) == (0, ["right", "right"])
    absent = bench("data", "verify", "toy")
    assert (absent.exit_code, absent.stdout.count("missing")) == (3, 2)
    assert "To mend it: bench data fetch toy" in absent.stderr
    assert bench("data", "verify").exit_code == 3
    (line,) = [line for line in json_lines(bench("data", "list", "--data", str(tmp_path / "other"), "--json")) if line["data_set"] == "toy"]
    assert line["found"] == [str(tmp_path / "other" / "toy" / name) for name in (IMAGES, f"{LABELS}.gz")]
    assert "toy      A toy: not here; to have it: bench data fetch toy" in bench("data", "list").stdout
    assert bench("data", "verify", "mnst").exit_code == 2


def test_the_help_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; from harness.cli import main\ntry: main(['data', *sys.argv[1:]])\nexcept SystemExit: pass\nprint(sorted(sys.modules))"
    )
    for arguments in (["--help"], ["list"], ["verify", "mnist"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=True)
        assert not {"torch", "numpy", "sqlalchemy", "mlflow", "pandas"} & set(re.findall(r"'(\w+)'", done.stdout.splitlines()[-1]))


# the real files


@pytest.fixture
def real(monkeypatch):
    """The folder that BENCH_DATA named before."""
    monkeypatch.undo()
    if not os.environ.get("BENCH_DATA"):
        assert not os.environ.get("CI"), "set BENCH_DATA to a folder with mnist/ in it"
        pytest.skip("BENCH_DATA is not set")
    return Path(os.environ["BENCH_DATA"])


def test_mnist_is_mnist(real):
    train, test = load_images("mnist", "train"), load_images("mnist", "test")
    assert (train.shape, test.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert round(train.mean() / 255, 4) == 0.1307  # as every tutorial has it
    assert [item.state for item in verify("mnist", real)] == ["right"] * 4


def test_fashion_is_fashion_and_neither_passes_for_the_other(tmp_path, monkeypatch):
    debian = KNOWN["fashion"].package_folder
    if not (debian / f"{IMAGES}.gz").exists():
        pytest.skip("dataset-fashion-mnist is not installed")
    assert load_images("fashion", "test").shape == (10_000, 28, 28)
    assert [item.path.parent for item in verify("fashion")] == [debian] * 4
    assert [fetched.new for fetched in fetch("fashion")] == [False] * 4
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(debian)
    with pytest.raises(DataError, match="is not t10k-images-idx3-ubyte of mnist: it holds t10k-images-idx3-ubyte of fashion"):
        load_images("mnist", "test")


# the downloader


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
        self.server.released.wait(20)
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
    assert {name: got for name, _, got, _ in seen} == {name: len(content) for name, content in ZIPPED.items()}
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
        rf"bench: No mirror gives {IMAGES} of toy: http://127.0.0.1:9/{IMAGES}.gz fails: Connection refused\. .*\n", failed.stderr
    )


@pytest.mark.parametrize(
    "address", ["ftp://a/b", "a/b", "https://", "http://a:b", "http://[a", "http://a/?b=", "http://a/ b", "http://u:secret@a"]
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
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        with pytest.raises(WorkspaceError, match=r"No space left on device\. Free some space or choose another folder"):
            list(fetch("toy", mirrors=[at("good")]))
        assert content_of(folder) == {}
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# processes


START = """
import sys
from harness import data
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
    ended = [(process.communicate(timeout=30), process.returncode) for process in (first, second)]
    assert [status for _, status in ended] == [0, 0]
    assert [out.split()[::2] for (out, _), _ in ended] == [["fetched", "fetched"], ["kept", "kept"]]
    assert server.asked == [("waiting", IMAGES), ("waiting", LABELS)]
    assert content_of(tmp_path / "data") == WHOLE


def test_killed_while_it_downloads_the_same_command_starts_over(at, server, tmp_path):
    folder = tmp_path / "data" / "toy"
    process = start(at("waiting"))
    wait_for(lambda: any(folder.glob(".*.part")))
    process.kill()
    process.communicate()
    assert sorted(path.name.partition(".")[0] for path in folder.iterdir()) == ["", ""]  # a part and the lock, both hidden
    assert [item.state for item in verify("toy")] == ["missing", "missing"]
    list(fetch("toy", mirrors=[at("good")]))
    assert content_of(tmp_path / "data") == WHOLE


def test_ctrl_c_leaves_nothing_behind(at, server, tmp_path):
    process = start(at("waiting"))
    wait_for(lambda: any((tmp_path / "data" / "toy").glob(".*.part")))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said.splitlines()[-1]) == (130, "Interrupted.")
    assert content_of(tmp_path / "data") == {}


@pytest.mark.parametrize("place", ["fsync:[.]part:1", "replace:toy/train:1", "-replace:toy/train:1", "fsync:toy$:1"])
def test_killed_at_a_chosen_place_a_file_is_whole_or_not_there(place, at, tmp_path):
    mark = tmp_path / "mark"
    process = start(at("good"), PATH_FIRST=FAULTY, FAULT=place, FAULT_MARK=str(mark))
    process.communicate(timeout=30)
    assert (process.returncode, mark.exists()) == (-9, True)
    assert {item.state for item in verify("toy")} <= {"missing", "right"}
    list(fetch("toy", mirrors=[at("good")]))
    assert content_of(tmp_path / "data") == WHOLE


def test_a_terminal_sees_a_bar(at, tmp_path):
    ours, theirs = pty.openpty()
    process = start(at("good"), theirs, TERM="xterm", COLUMNS="120")
    os.close(theirs)
    out, _ = process.communicate(timeout=30)
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
