"""The text of a class that was defined in a notebook or script, with all that it refers to, so that
its runs are stored with it like those of a file.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import importlib.util
import inspect
import linecache
import math
import re
import symtable
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NoReturn

from harness.base.errors import PluginError
from harness.plan.plugin_source import PREFIX, Source, is_installed, read

MAIN = "__main__"
LARGEST_ARRAY = 10_000
"""How many numbers of a tensor or array are stored with a class that refers to it."""


def is_notebook_class(cls: type) -> bool:
    """Say whether the class was defined in this session, or made by `harness.target`: no module has
    it under its name.
    """
    return cls.__module__ == MAIN or bool(vars(cls).get("target_functions"))


def source_of(cls: type) -> Source:
    """Return the text of a class of this session, with the functions, classes, imports and values
    of the session that it refers to.

    Raises:
        PluginError: the text of something is not known, or a value cannot be written as text.
    """
    collected = _Collected(cls.__name__)
    collected.add(cls.__name__, cls)
    main = "notebook.py"
    while main in collected.files:
        main = f"_{main}"
    head = [_FUTURE] if _has_future_annotations() else []
    text = "\n\n".join([*head, *sorted(collected.imports), *collected.definitions]) + "\n"
    return Source(main, dict(sorted({**collected.files, main: text}.items())))


_FUTURE = "from __future__ import annotations"


def _has_future_annotations() -> bool:
    return getattr(sys.modules[MAIN], "annotations", None) is __future__.annotations


class _Collected:
    """The statements that make up the module of a class; what is referred to comes first."""

    def __init__(self, class_name: str) -> None:
        self.imports: set[str] = set()
        self.definitions: list[str] = []
        self.files: dict[str, str] = {}
        self._class_name = class_name
        self._seen: dict[str, Any] = {}

    def add(self, name: str, value: Any) -> None:
        """Add the statement that gives `name` its value, and those of all names in it."""
        if name in self._seen:
            if self._seen[name] is not value:
                self._refuse(f"two things called {name}, of which one")
            return
        self._seen[name] = value
        if value is __future__.annotations:
            return
        functions = vars(value).get("target_functions") if isinstance(value, type) else None
        if isinstance(value, ModuleType):
            self._import(value.__name__, f"import {value.__name__} as {name}")
        elif functions:
            self._target(name, value, functions)
        elif isinstance(value, type | FunctionType) and value.__module__ == MAIN:
            self._define(name, value)
        elif (literal := self._literal(name, value)) is not None:
            self.definitions.append(f"{name} = {literal}")
        elif (origin := _importable(name, value)) is not None:
            self._import(origin[0], f"from {origin[0]} import {origin[1]} as {name}")
        else:
            self._refuse(f"{name}, a {type(value).__qualname__}")

    def _refuse(self, what: str) -> NoReturn:
        raise PluginError(
            f"{self._class_name} refers to {what}, whose text is not known here. Numbers, texts, "
            f"lists, arrays of up to {LARGEST_ARRAY:,} finite numbers, functions (def), classes "
            f"and imports are stored with a class; or write a file: ./mine.py:{self._class_name}."
        )

    def _import(self, module: str, statement: str) -> None:
        """Add an import, with the files of the module where it is not an installed one."""
        top = module.partition(".")[0]
        if top not in sys.stdlib_module_names and not is_installed(module):
            file = getattr(sys.modules.get(module), "__file__", None)
            if file is None or importlib.util.find_spec(top) is None:
                self._refuse(f"the module {module}")
            path = Path(file)
            depth = len(module.split(".")) - (path.name != "__init__.py")
            self.files |= read(path, path.parents[depth]).files
        self.imports.add(statement)

    def _define(self, name: str, value: type | FunctionType) -> None:
        if "<lambda>" in value.__qualname__:
            self._refuse(f"{name}, a lambda")
        if "." in value.__qualname__:
            self._refuse(f"{value.__qualname__}, which is defined inside a function or class")
        if value.__name__ != name:
            self.add(value.__name__, value)
            self.definitions.append(f"{name} = {value.__name__}")
            return
        text = _text(value)
        if text is None:
            self._refuse(name)
        self._add_names_of(text, name)
        self.definitions.append(text)

    def _target(self, name: str, cls: Any, functions: dict[str, Any]) -> None:
        """Add the call of `harness.target` that made a class."""
        settings: dict[str, Any] = {"dim": cls.model_fields["dim"].default, "log_z": cls.log_z}
        arguments = [f"{key}={self._literal(key, value)}" for key, value in settings.items()]
        arguments.append(f"name={cls.name!r}")
        for key, function in functions.items():
            own = getattr(function, "__name__", "")
            self.add(own if own.isidentifier() else key, function)
            arguments.append(f"{key}={own}")
        self.imports.add("from harness.api import target as _target")
        self.definitions.append(f"{name} = type(_target({', '.join(arguments)}))")

    def _literal(self, name: str, value: Any) -> str | None:
        """Return a value as an expression; None for what is no value."""
        import numpy as np
        import torch

        if isinstance(value, torch.dtype):
            self.imports.add("import torch as _torch")
            return f"_{value}"
        if isinstance(value, torch.Tensor | np.ndarray):
            is_tensor = isinstance(value, torch.Tensor)
            library = "torch" if is_tensor else "numpy"
            size = value.numel() if isinstance(value, torch.Tensor) else value.size
            text = repr(value.tolist()) if size <= LARGEST_ARRAY else ""
            if not text or "nan" in text or "inf" in text or _evaluated(text) is None:
                self._refuse(f"{name}, {'a tensor' if is_tensor else 'an array'} of {size} values")
            self.imports.add(f"import {library} as _{library}")
            dtype = f"_{value.dtype}" if is_tensor else repr(str(value.dtype))
            make = "tensor" if is_tensor else "array"
            shape = tuple(value.shape)
            return f"_{library}.{make}({text}, dtype={dtype}).reshape({shape})"
        if isinstance(value, np.generic) and _evaluated(repr(value.item())) is not None:
            self.imports.add("import numpy as _numpy")
            return f"_numpy.{value.dtype.name}({value.item()!r})"
        if isinstance(value, float) and not math.isfinite(value):
            return f"float({str(value)!r})"
        plain = str | bytes | int | float | complex | list | tuple | dict | set | None
        is_plain = isinstance(value, plain) and _evaluated(repr(value)) == value
        return repr(value) if is_plain else None

    def _add_names_of(self, text: str, own: str) -> None:
        session = vars(sys.modules[MAIN])
        for name in sorted(_names(text) - {own}):
            if name in session and getattr(builtins, name, None) is not session[name]:
                self.add(name, session[name])


def _evaluated(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _importable(name: str, value: Any) -> tuple[str, str] | None:
    """Return the module and the name from which a function, class or constant can be imported; an
    alias of types knows neither, and `name` is what the session calls it.
    """
    own = [getattr(value, key, None) for key in ("__qualname__", "__name__", "_name")]
    names = [text for text in (*own, name) if isinstance(text, str) and text.isidentifier()]
    private = re.compile(rf"{PREFIX}|_|.*\._")
    public = [module for module in sys.modules if not private.match(module)]
    modules = sorted(public, key=lambda module: (module.count("."), module))
    for module in [getattr(value, "__module__", None), *modules]:
        bound = vars(sys.modules.get(module, object)) if module != MAIN else {}
        for bound_name in names:
            if bound.get(bound_name, ...) is value:
                return module, bound_name
    return None


def _text(value: type | FunctionType) -> str | None:
    """Return the text of a class or function of this session, as it is now."""
    if isinstance(value, FunctionType):
        code = inspect.unwrap(value).__code__
        return _definition(code.co_filename, value.__name__, code.co_firstlineno)
    for member in vars(value).values():
        inner = getattr(member, "__func__", getattr(member, "fget", member))
        own = f"{value.__name__}.{getattr(inner, '__name__', '')}"
        if isinstance(inner, FunctionType) and inner.__qualname__ == own:
            code = inspect.unwrap(inner).__code__
            if text := _definition(code.co_filename, value.__name__, code.co_firstlineno):
                return text
    try:  # a class without functions, in a script
        return textwrap.dedent(inspect.getsource(value)).rstrip()
    except (OSError, TypeError):
        return None


def _definition(file: str, name: str, line: int) -> str | None:
    """Return the text of the definition of `name` in a file or cell that spans a line."""
    lines = linecache.getlines(file)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:  # a cell with a magic command
        tree = ast.parse(
            "".join("\n" if line_text[:1] in "%!" else line_text for line_text in lines)
        )
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name != name:
            continue
        start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if start <= line <= (node.end_lineno or line):
            return textwrap.dedent("".join(lines[start - 1 : node.end_lineno])).rstrip()
    return None


def _names(text: str) -> set[str]:
    """Return the names of the session that a definition may use: those that are global where they
    are used, and those of annotations.
    """
    return {*_globals(symtable.symtable(text, MAIN, "exec")), *_annotated(ast.parse(text))}


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    is_top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_global() or (is_top and symbol.is_referenced()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals(child)


def _annotated(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            annotation = getattr(node, field, None)
            for inner in ast.walk(annotation) if isinstance(annotation, ast.AST) else ():
                if isinstance(inner, ast.Name):
                    yield inner.id
                elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield from _annotated_text(inner.value)


def _annotated_text(text: str) -> Iterator[str]:
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return
    yield from (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
