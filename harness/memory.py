"""Memory that training frees is kept for its next step."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Names of glibc's settings (malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD)."""
KEPT = {TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 2**26, MMAP_THRESHOLD: 2**25}
"""Bytes: give nothing back, grow by 64 MB, and take blocks up to 32 MB, the most that glibc allows, from what was kept."""


def keep_freed_memory() -> bool:
    """Ask the C library not to give freed memory back to the system, which would hand it out again page by page, zeroed, at every step.

    It touches no number. Returns whether it was done: with glibc only.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(setting, value) == 1 for setting, value in KEPT.items())
