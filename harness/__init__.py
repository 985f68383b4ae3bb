"""bench: a benchmark harness for variational inference.

In a notebook: `harness.fit("hvae", "gaussian-25", protocol="smoke")` trains,
`harness.target(log_density, dim=10)` makes a task of a function, `harness.run` and
`harness.compare` do what `bench run` and `bench compare` do, `harness.load_run(key)` gives a stored
run as a `Fit`, and `harness.results.load()` everything that is stored.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.analysis import results
    from harness.api import target
    from harness.cli.python import compare, run
    from harness.execution.fit import Fit, fit, load_run

__all__ = ["Fit", "__version__", "compare", "fit", "load_run", "results", "run", "target"]
__version__ = "0.1.0"

# Installed, methods, tasks and studies lie in this package; in a checkout they stand beside it.
_FOLDER = Path(__file__).parent
if not (_FOLDER / "methods").is_dir():
    __path__.append(str(_FOLDER.parent))


def __getattr__(name: str) -> Any:
    """Load what a notebook uses when it is first used."""
    if name == "results":
        return importlib.import_module("harness.analysis.results")
    modules = {
        "target": "api",
        **dict.fromkeys(("fit", "Fit", "load_run"), "execution.fit"),
        **dict.fromkeys(("run", "compare"), "cli.python"),
    }
    if name not in modules:
        raise AttributeError(f"module 'harness' has no attribute '{name}'")
    return getattr(importlib.import_module(f"harness.{modules[name]}"), name)


def __dir__() -> list[str]:
    """List what a notebook uses."""
    return __all__
