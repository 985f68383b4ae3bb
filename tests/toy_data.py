"""A small data set in a folder of its own, for the tests of data files."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from harness.datasets.files import KNOWN, DataFile, DataSet

ROOT = Path(__file__).parent.parent
FAULTY = str(Path(__file__).with_name("faulty"))
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


RANDOM = np.random.default_rng(0)
PIXELS = np.where(
    RANDOM.random((300, 28, 28)) < 0.3, RANDOM.integers(0, 256, (300, 28, 28)), 0
).astype(np.uint8)
CONTENT = {IMAGES: idx(PIXELS), LABELS: idx(PIXELS[:, 14, 14])}
TOY = tuple(
    DataFile("toy", name, len(content), hashlib.sha256(content).hexdigest())
    for name, content in CONTENT.items()
)
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
