"""Data files: IDX faults, finding and verifying."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import json_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_data import BOMB, CONTENT, IMAGES, LABELS, PIXELS, ROOT, TOY, ZIPPED, _toy, idx, put  # noqa: F401

from harness.base.errors import DataError, UnknownName
from harness.datasets.download import fetch
from harness.datasets.files import KNOWN, fault_of, find_data, verify
from harness.tasks._idx import LARGEST, load_images, read

# IDX


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:])],
)
def test_what_was_written_is_read_whatever_its_name_and_wrapper(pack, tmp_path):
    for array in (PIXELS, PIXELS[:, 14, 14]):
        (tmp_path / "file.bin").write_bytes(pack(idx(array)))
        found = read(tmp_path / "file.bin", array.ndim)
        assert (found.dtype, found.shape, np.array_equal(found, array)) == (
            np.uint8,
            array.shape,
            True,
        )


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
    assert (raised.value.exit_status, str(pickle.loads(pickle.dumps(raised.value)))) == (
        2,
        str(raised.value),
    )


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
    [
        b"\0\0\x08\3" + struct.pack(">3I", LARGEST // 784, 28, 28),
        gzip.compress(SMALL[:-1]) + BOMB,
        gzip.compress(b"\0\0\x08\3") + BOMB,
    ],
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


EDITS = st.lists(
    st.tuples(st.one_of(st.integers(0, 20), st.integers(0, 2000)), st.integers(0, 255)), max_size=4
)
CUT = st.one_of(st.just(0), st.integers(0, 2000))


@settings(max_examples=400, deadline=None)
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


@pytest.mark.parametrize(
    "name", [IMAGES, f"{IMAGES}.gz", "train-images.idx3-ubyte", "train-images.idx3-ubyte.gz"]
)
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
    with pytest.raises(
        DataError,
        match=r"the sha256 of its decompressed bytes is .* "
        r"Replace it: bench data fetch toy --force$",
    ):
        load_images("toy", "train")


WRONG = {
    "labels": (
        CONTENT[LABELS],
        "holds labels (1 dimension), not images",
        "it holds train-labels-idx1-ubyte of toy",
    ),
    "fewer images": (
        idx(PIXELS[:7]),
        "it has 5,504 bytes when decompressed, not 235,216",
        "it has 5,504 bytes",
    ),
    "more images": (
        idx(np.concatenate([PIXELS, PIXELS])),
        "it has more than 235,216 bytes",
        "it has more than 235,216 bytes",
    ),
    "cut short": (ZIPPED[IMAGES][:-1000], "is cut short", "is cut short"),
    "a bomb": (
        gzip.compress(CONTENT[IMAGES]) + BOMB,
        "more than 235,216 bytes",
        "more than 235,216 bytes",
    ),
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
    assert (right.exit_code, [line["state"] for line in json_lines(right)]) == (
        0,
        ["right", "right"],
    )
    absent = bench("data", "verify", "toy")
    assert (absent.exit_code, absent.stdout.count("missing")) == (3, 2)
    assert "To repair it: bench data fetch toy" in absent.stderr
    (line,) = [
        line
        for line in json_lines(bench("data", "list", "--data", str(tmp_path / "other"), "--json"))
        if line["data_set"] == "toy"
    ]
    assert line["found"] == [
        str(tmp_path / "other" / "toy" / name) for name in (IMAGES, f"{LABELS}.gz")
    ]
    assert (
        "toy      A toy: not here; to get it: bench data fetch toy" in bench("data", "list").stdout
    )
    assert bench("data", "verify", "mnst").exit_code == 2


@pytest.mark.parametrize("content", [CONTENT, ZIPPED], ids=["plain", "gzip"])
def test_the_folders_of_torchvision_are_looked_into_and_never_written_to(
    content, tmp_path, monkeypatch, bench
):
    monkeypatch.setitem(KNOWN, "toy", replace(KNOWN["toy"], torchvision="TOY"))
    raw = put(
        tmp_path / "data" / "TOY" / "raw",
        {f"{IMAGES}.gz" if content is ZIPPED else IMAGES: content[IMAGES]},
    )
    assert np.array_equal(load_images("toy", "train"), PIXELS)
    assert [item.state for item in verify("toy", tmp_path / "data")] == ["right", "missing"]
    (raw / next(raw.iterdir()).name).write_bytes(b"another file")
    with pytest.raises(DataError, match="Replace it: bench data fetch toy --force"):
        load_images("toy", "train")
    failed = bench("data", "fetch", "toy", "--force")  # its mirror does not answer
    assert (failed.exit_code, [path.read_bytes() for path in raw.iterdir()]) == (
        1,
        [b"another file"],
    )
    put(tmp_path / "data" / "toy", {IMAGES: CONTENT[IMAGES]})  # bench's own folder goes before
    assert np.array_equal(load_images("toy", "train"), PIXELS)


def test_torchvisions_folders_are_those_of_its_releases():
    assert {name: known.torchvision for name, known in KNOWN.items() if name != "toy"} == {
        "mnist": "MNIST",
        "fashion": "FashionMNIST",
    }


IN_THE_WAY = {
    "a link to itself": (
        lambda data: put(data / "toy", {}).joinpath(IMAGES).symlink_to(IMAGES),
        f"toy/{IMAGES} is a link that leads in a circle",
    ),
    "a link to nothing": (
        lambda data: put(data / "toy", {}).joinpath(IMAGES).symlink_to("x"),
        f"toy/{IMAGES} is a link that leads nowhere",
    ),
    "a folder": (
        lambda data: put(data / "toy" / f"{IMAGES}.gz", {}),
        f"toy/{IMAGES}.gz is a folder, where a file should be",
    ),
    "a pipe": (
        lambda data: os.mkfifo(put(data / "toy", {}) / IMAGES),
        f"toy/{IMAGES} is a device or a pipe, where a file should be",
    ),
    "a file as folder": (
        lambda data: put(data, {"toy": b""}),
        "toy is a file, where a folder should be",
    ),
    "folders in a circle": (
        lambda data: data.symlink_to(data),
        "data is a link that leads in a circle",
    ),
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_stands_in_a_files_place_is_named(kind, tmp_path, bench):
    place, says = IN_THE_WAY[kind]
    place(tmp_path / "data")
    with pytest.raises(
        DataError, match=re.escape(f"{tmp_path}/data/{says}".replace("data/data", "data"))
    ):
        load_images("toy", "train")
    told = bench("data", "verify", "toy")
    assert (told.exit_code, says in told.stdout) == (3, True)
    assert bench("data", "list").exit_code == 0


def test_a_good_copy_beside_what_stands_in_the_way_is_taken(tmp_path, bench):
    put(tmp_path / "data" / "toy", {"train-images.idx3-ubyte": CONTENT[IMAGES]})
    put(tmp_path / "data" / "toy" / IMAGES, {IMAGES: CONTENT[IMAGES]})  # as some archives unpack
    assert np.array_equal(load_images("toy", "train"), PIXELS)
    assert next(verify("toy")).state == "right"


def test_verify_asks_for_what_runs_need_and_no_more(tmp_path, monkeypatch, bench):
    monkeypatch.setitem(
        KNOWN, "toy", replace(KNOWN["toy"], files=(TOY[0], replace(TOY[1], needed=False)))
    )
    folder = put(tmp_path / "data" / "toy", {IMAGES: CONTENT[IMAGES]})
    told = bench("data", "verify", "toy")
    assert (told.exit_code, "no run needs it" in told.stdout, told.stderr) == (0, True, "")
    assert bench("data", "verify").exit_code == 0, "the other data sets are not here"
    put(folder, {LABELS: b"wrong"})
    assert bench("data", "verify", "toy").exit_code == 3
    (folder / LABELS).unlink()
    (folder / IMAGES).unlink()
    assert bench("data", "verify", "toy").exit_code == 3
    assert {file.name for file in KNOWN["mnist"].files if file.needed} == {
        IMAGES,
        "t10k-images-idx3-ubyte",
    }


def test_the_help_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; from harness.cli import main\ntry: main(['data', *sys.argv[1:]])\nexcept "
        "SystemExit: pass\nprint(sorted(sys.modules))"
    )
    for arguments in (["--help"], ["list"], ["verify", "mnist"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        assert not {"torch", "numpy", "sqlalchemy", "mlflow", "pandas"} & set(
            re.findall(r"'(\w+)'", done.stdout.splitlines()[-1])
        )


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
    with pytest.raises(
        DataError,
        match="is not t10k-images-idx3-ubyte of mnist: it holds t10k-images-idx3-ubyte of fashion",
    ):
        load_images("mnist", "test")
