"""IDX files, the format of MNIST and Fashion-MNIST, as arrays.

The format: two zero bytes, the kind of number (8: unsigned bytes), the number of dimensions, each
size as four bytes with the highest first, then the numbers.

Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits,
http://yann.lecun.com/exdb/mnist
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from harness.api import DataStream, Found, find_data, open_data

BLOCK = 2**20
Split = Literal["train", "test"]
LARGEST = 2**28  # bytes, five times the largest file of MNIST
UNSIGNED_BYTE = 0x08
TYPES = {
    0x08: "uint8",
    0x09: "int8",
    0x0B: "int16",
    0x0C: "int32",
    0x0D: "float32",
    0x0E: "float64",
}
CONTENTS = {1: "labels (1 dimension)", 3: "images (3 dimensions)"}
IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}


def load_images(name: str, split: Split) -> np.ndarray:
    """All images of a split, in their order, as grey values 0 to 255.

    The file is read and its sha256 is compared once a process. The array is shared and read-only:
    `torch.tensor` copies it.

    Shapes:
        returns [n, 28, 28], uint8; n is 60,000 for training and 10,000 for testing.

    Args:
        name: the data set, "mnist" or "fashion".
        split: the half of it.

    Raises:
        DataError: the file is missing, damaged or another one; the message says what to do.
    """
    return _loaded(find_data(name, IMAGES[split]))


@lru_cache(maxsize=4)
def _loaded(found: Found) -> np.ndarray:
    with open_data(found.path, found.expected) as stream:
        images = _array(stream, 3)
    images.flags.writeable = False
    return images


def read(path: Path, n_dims: int) -> np.ndarray:
    """The array of an IDX file of unsigned bytes, gzipped or not.

    Args:
        path: the file.
        n_dims: how many dimensions it must have: 3 for images, 1 for labels.

    Raises:
        DataError: the file cannot be read, or is not such a file from its first byte to its last.
    """
    with open_data(path) as stream:
        return _array(stream, n_dims)


def _array(stream: DataStream, n_dims: int) -> np.ndarray:
    """The array, [*sizes]; a ValueError says what is wrong with the file, after its name."""
    magic = _next(stream, 4, "magic number")
    if magic[:2] != b"\0\0" or magic[2] not in TYPES:
        raise ValueError(
            f"is not an IDX file: it begins with {magic.hex(' ')}, not with 00 00 08 {n_dims:02x}"
        )
    if magic[2] != UNSIGNED_BYTE:
        raise ValueError(f"holds numbers of type {TYPES[magic[2]]}, not uint8")
    if magic[3] != n_dims:
        raise ValueError(f"holds {_contents(magic[3])}, not {_contents(n_dims)}")
    sizes = struct.unpack(f">{n_dims}I", _next(stream, 4 * n_dims, "sizes"))
    total = math.prod(sizes)
    shown = " x ".join(f"{size:,}" for size in sizes)
    if not 0 < total <= LARGEST:
        raise ValueError(f"claims to hold {shown} bytes, where 1 to {LARGEST:,} are allowed")
    content = _next(stream, total, f"{shown} bytes")
    if stream.read(1):
        raise ValueError(f"goes on after its {shown} bytes, where it should end")
    return np.frombuffer(content, np.uint8).reshape(sizes)


def _contents(n_dims: int) -> str:
    return CONTENTS.get(n_dims, f"an array of {n_dims} dimensions")


def _next(stream: DataStream, size: int, what: str) -> bytearray:
    """Exactly `size` bytes, in blocks: what a file claims to hold takes no memory before it is
    there.
    """
    content = bytearray()
    while len(content) < size:
        block = stream.read(min(BLOCK, size - len(content)))
        if not block:
            raise ValueError(
                f"is too short: it ends after {len(content):,} of the {size:,} bytes of its {what}"
            )
        content += block
    return content
