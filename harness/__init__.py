"""bench: a benchmark harness for variational inference.

In a notebook: `harness.fit("hvae", "gaussian-25", protocol="smoke")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.notebook import Fit, fit

__all__ = ["Fit", "__version__", "fit"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`fit` and `Fit`, loaded when first used: importing `harness` loads nothing else."""
    if name not in ("fit", "Fit"):
        raise AttributeError(f"module 'harness' has no attribute '{name}'")
    from harness import notebook

    return getattr(notebook, name)
