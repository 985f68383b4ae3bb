"""The files behind plugins: found, run, and hashed."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from harness.errors import PluginError, UsageError


def imported(name: str) -> ModuleType:
    """The module of that name.

    Raises:
        UsageError: there is none.
        PluginError: it, or what it imports, cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name is None or not (name == err.name or name.startswith(err.name + ".")):
            raise PluginError(f"Cannot import '{name}': {err}.") from err
        near = name.replace(".", "/") + ".py"
        hint = f" Did you mean './{near}:CLASS'?" if _is_file(near) else " Is its package installed?"
        raise UsageError(f"No module named '{name}'.{hint} A file is named with its path: ./mine.py:Mine.") from err
    except Exception as err:
        raise PluginError(f"Cannot import '{name}': {type(err).__name__}: {err}.") from err


def executed(path: Path) -> ModuleType:
    """The module that a file makes, run once.

    Raises:
        PluginError: it does not run.
    """
    name = "bench_plugin_" + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"Cannot load {path} as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        del sys.modules[name]
        raise PluginError(f"Cannot load {path}: {type(err).__name__}: {err}.") from err
    return module


def source_hash(cls: type) -> str:
    """A hash of the text of a plugin's file and of the files beside it that it imports."""
    import inspect

    path = Path(inspect.getfile(cls))
    seen: dict[Path, str] = {}
    queue = [path]
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen[current] = current.read_text(encoding="utf-8")
        queue += [near for name in _imports(seen[current]) if (near := path.parent / f"{name}.py").is_file()]
    return hashlib.sha256("\0".join(text for _, text in sorted(seen.items())).encode()).hexdigest()[:16]


def _imports(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.rpartition(".")[2]


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # no file can have such a name
        return False
