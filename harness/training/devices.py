"""The devices on which a stack is computed: the processor, or a CUDA card."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import torch

from harness.base.errors import UsageError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library


def available() -> list[str]:
    """List the devices of this machine."""
    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]


def use(name: str) -> None:
    """Make a device ready: single precision is true single precision on it (no TF32).

    Raises:
        UsageError: this machine has none of that name.
    """
    here = available()
    if name not in here and not (name == "cuda" and len(here) > 1):
        raise UsageError(
            f"No device '{name}' on this machine. Available: {', '.join(here)}. Choose one: "
            f"--device {here[-1]}"
        )
    if name != "cpu":
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # pyright: ignore[reportAttributeAccessIssue]
    # A step of thousands of particles frees megabytes: kept by the process, they are not filled
    # with
    # zeros again for the next step. Other C libraries have no mallopt.
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 2**30)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
