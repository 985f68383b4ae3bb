"""The code behind plugins: installed modules by name, and other files as text, which is hashed,
stored and run wherever it is needed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from types import CodeType, ModuleType

from harness.base.errors import PluginError, UsageError
from harness.base.spec import canonical_json

PREFIX = "bench_plugin_"
OURS = ("harness", "methods", "tasks", "studies")


def shipped(name: str) -> str:
    """The full name of a module: `methods.vb`, which ships with bench, is `harness.methods.vb`."""
    if name.partition(".")[0] not in OURS[1:]:
        return name
    file = ".".join(name.split(".")[:2])  # what follows may be a class
    return f"harness.{name}" if importlib.util.find_spec(f"harness.{file}") else name


def is_shipped(name: str) -> bool:
    """Whether a module ships with bench."""
    return shipped(name).partition(".")[0] == "harness"


@dataclass(frozen=True)
class Source:
    """The text of a plugin that is not installed: its file, and those of its folder that it
    imports.

    Args:
        main: the plugin's file, relative to the folder.
        files: texts by name relative to the folder.
        folder: where they were read; empty where the text is all that there is.
    """

    main: str
    files: dict[str, str]
    folder: str = ""

    @cached_property
    def digest(self) -> str:
        """The sha256 of the text, wherever it lies: 64 hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def text(self) -> str:
        """Canonical JSON, as it is stored; `Source.parsed` reads it."""
        return canonical_json({"main": self.main, "files": self.files})

    @property
    def package(self) -> str:
        """The name of the package that its modules make in this process."""
        return PREFIX + self.digest[:16]

    @property
    def module(self) -> str:
        """The name of the plugin's own module in this process."""
        path = PurePosixPath(self.main)
        stem = path.stem.replace(".", "_")
        return ".".join([self.package, *path.parent.parts, *([] if stem == "__init__" else [stem])])

    def file_of(self, module: str) -> str | None:
        """The file of a module: `bench_plugin_X.nets` is nets.py, or nets/__init__.py."""
        if module == self.module:
            return self.main
        inner = module.removeprefix(self.package).lstrip(".").replace(".", "/")
        return next(
            (name for name in (f"{inner}.py", f"{inner}/__init__.py") if name in self.files), None
        )


def read(path: Path, root: Path | None = None) -> Source:
    """The text of a plugin's file and of what it imports from its folder, or from `root`.

    Raises:
        PluginError: a file cannot be read as Python.
    """
    folder = root or path.parent
    files: dict[str, str] = {}
    queue = [path]
    while queue:
        current = queue.pop()
        name = current.relative_to(folder).as_posix()
        if name not in files:
            files[name], tree = _parsed(current)
            queue += [near for module in _imports(tree, name) for near in _files_of(module, folder)]
    return Source(path.relative_to(folder).as_posix(), dict(sorted(files.items())), str(folder))


def _parsed(path: Path) -> tuple[str, ast.Module]:
    try:
        with tokenize.open(path) as file:  # in the encoding that the file itself names
            text = file.read()
        return text, ast.parse(text)
    except OSError as err:
        raise PluginError(f"Cannot read {path}: {err.strerror}.") from err
    except (SyntaxError, ValueError) as err:
        raise PluginError(f"Cannot read {path} as Python: {err}.") from err


def _imports(tree: ast.Module, name: str) -> Iterator[str]:
    """The names, as seen from the folder, of all modules that a file may import."""
    parents = PurePosixPath(name).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = parents[: len(parents) - node.level + 1] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _files_of(module: str, folder: Path) -> Iterator[Path]:
    """The folder's files that importing this module runs: itself, and the packages it is in."""
    parts = module.split(".")
    if is_shipped(module):
        return
    for count in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:count])
        yield from (
            near for near in (place.with_suffix(".py"), place / "__init__.py") if near.is_file()
        )


def parsed(text: str) -> Source:
    """The source that `Source.text` has.

    Raises:
        PluginError: it is something else.
    """
    import json

    try:
        source = Source(**json.loads(text))
        if source.main in source.files and source.text == text:
            return source
    except (ValueError, TypeError, AttributeError):
        pass
    raise PluginError(
        "The stored source of a plugin is not as bench stores it. Put a backup of the database in "
        "its place."
    )


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Serves the modules of one source from its text."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        ours = fullname == self._source.package or fullname.startswith(f"{self._source.package}.")
        if not ours or not (self.is_package(fullname) or self._source.file_of(fullname)):
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=self.is_package(fullname))

    def is_package(self, fullname: str) -> bool:
        inner = fullname.removeprefix(self._source.package).lstrip(".").replace(".", "/")
        return not inner or any(name.startswith(f"{inner}/") for name in self._source.files)

    def get_filename(self, fullname: str) -> str:
        folder = self._source.folder or self._source.digest[:8]
        return str(Path(folder) / (self._source.file_of(fullname) or ""))

    def get_source(self, fullname: str) -> str:
        return self._source.files.get(self._source.file_of(fullname) or "", "")

    def source_to_code(self, data: str, path: str = "<string>") -> CodeType:  # type: ignore[override]
        tree = _Inwards(self._source).visit(ast.parse(data))
        return compile(ast.fix_missing_locations(tree), path, "exec")


class _Inwards(ast.NodeTransformer):
    """Has a file import its neighbours from the source's package: two plugins may have a
    `nets.py`.
    """

    def __init__(self, source: Source) -> None:
        self._package = source.package
        self._tops = {PurePosixPath(name).parts[0].removesuffix(".py") for name in source.files}

    def _is_near(self, module: str | None) -> bool:
        return (module or "").partition(".")[0] in self._tops

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.level == 0 and self._is_near(node.module):
            node.module = f"{self._package}.{node.module}"
        elif node.level == 0 and node.module:
            node.module = shipped(node.module)
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.Import]:
        aliases: list[ast.alias] = []
        for alias in node.names:
            if not self._is_near(alias.name):
                aliases.append(alias)
                continue
            aliases.append(ast.alias(f"{self._package}.{alias.name}", alias.asname))
            if not alias.asname:
                top = alias.name.partition(".")[0]
                aliases.append(ast.alias(f"{self._package}.{top}", top))
        return [ast.copy_location(ast.Import([alias]), node) for alias in aliases]


def executed(source: Source) -> ModuleType:
    """The module that a source makes, run once a process.

    Raises:
        PluginError: it does not run.
    """
    if source.module in sys.modules:
        return sys.modules[source.module]
    loader = _Loader(source)
    sys.meta_path.insert(0, loader)
    try:
        return importlib.import_module(source.module)
    except (Exception, SystemExit) as err:
        sys.meta_path.remove(loader)
        for module in list(sys.modules):
            if module == source.package or module.startswith(f"{source.package}."):
                del sys.modules[module]
        raise PluginError(
            f"Cannot load {Path(source.folder) / source.main}: {type(err).__name__}: {err}."
        ) from err


def imported(name: str) -> ModuleType:
    """The installed module of that name.

    Raises:
        UsageError: there is none.
        PluginError: it, or what it imports, cannot be imported.
    """
    name = shipped(name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name is None or not (name == err.name or name.startswith(err.name + ".")):
            raise PluginError(f"Cannot import '{name}': {err}.") from err
        raise UsageError(
            f"No module named '{name}'. Is its package installed? "
            "A file is named with its path: ./mine.py:Mine."
        ) from err
    except (Exception, SystemExit) as err:
        raise PluginError(f"Cannot import '{name}': {type(err).__name__}: {err}.") from err


def is_installed(name: str) -> bool:
    """Whether a module belongs to an installed distribution; another one is known by its text."""
    from importlib.metadata import packages_distributions

    top = name.partition(".")[0]
    return is_shipped(name) or top in packages_distributions()


@cache
def source_hash(cls: type) -> str:
    """A hash of the text of an installed plugin's file and of the files beside it that it
    imports.
    """
    import inspect

    path = Path(inspect.getfile(cls))
    seen: dict[Path, str] = {}
    queue = [path]
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen[current] = current.read_text(encoding="utf-8")
        names = (
            node.module
            for node in ast.walk(ast.parse(seen[current]))
            if isinstance(node, ast.ImportFrom) and node.module
        )
        queue += [
            near
            for name in names
            if (near := path.parent / f"{name.rpartition('.')[2]}.py").is_file()
        ]
    return hashlib.sha256("\0".join(text for _, text in sorted(seen.items())).encode()).hexdigest()[
        :16
    ]
