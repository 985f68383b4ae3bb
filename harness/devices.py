"""Where a stack is computed: the processor, or a CUDA card."""

from __future__ import annotations

import torch

from harness.errors import UsageError


def available() -> list[str]:
    """The devices of this machine."""
    return ["cpu", *(f"cuda:{place}" for place in range(torch.cuda.device_count()))]


def use(name: str) -> None:
    """Make a device ready: single precision is true single precision on it, in products and convolutions alike (no TF32).

    Raises:
        UsageError: this machine has none of that name.
    """
    here = available()
    if name not in here and not (name == "cuda" and len(here) > 1):
        raise UsageError(f"No device '{name}' on this machine. Available: {', '.join(here)}. Choose one: --device {here[-1]}")
    if name != "cpu":
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # pyright: ignore[reportAttributeAccessIssue]
