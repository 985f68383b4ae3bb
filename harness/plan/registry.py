"""Names to classes: plugins are found by file name, entry point or path, and built from plain
values.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from harness.base.errors import InvalidSetting, PluginError, UnknownName, UsageError, shortened
from harness.plan import notebook_source
from harness.plan.plugin_source import Source, executed, imported, is_installed, read

if TYPE_CHECKING:
    from pydantic import BaseModel

    from harness.api import Method, Task
    from harness.base.spec import RunSpec

Kind = Literal["method", "task"]
Model = TypeVar("Model", bound="BaseModel")


@dataclass(frozen=True)
class Listing:
    """A plugin that can be named, as far as it is known without importing it."""

    name: str
    origin: Path | EntryPoint

    @property
    def summary(self) -> str:
        """The first paragraph of the file's docstring, or where the plugin comes from."""
        if isinstance(self.origin, EntryPoint):
            return f"from {self.origin.value}"
        try:
            docstring = ast.get_docstring(ast.parse(self.origin.read_bytes())) or ""
            return " ".join(docstring.partition("\n\n")[0].split())
        except (OSError, SyntaxError, ValueError) as err:
            return f"{self.origin} cannot be read as Python: {err}"


@dataclass(frozen=True)
class NamedPlugin:
    """A plugin's class, the name that loads it again, the fields that its variant fills, and its
    text where it is not installed.
    """

    cls: Any
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    source: Source | None = None


named: dict[str, Source] = {}
"""By their digests, the sources that the user of this process named: their code may run here."""


def listings(kind: Kind) -> dict[str, Listing]:
    """Every plugin by name: those that are installed, and the files of a folder `methods` or
    `tasks` in the current one, under names that are still free. Nothing is imported.
    """
    folder, local = Path(f"{kind}s"), {}
    with suppress(OSError):
        if folder.is_dir() and not folder.samefile(_shipped_folder(kind)):
            local = _files(folder)
    return dict(sorted((local | installed(kind)).items()))


def installed(kind: Kind) -> dict[str, Listing]:
    """The plugins that ship with bench, and those of installed packages."""
    points = {point.name: Listing(point.name, point) for point in _entry_points(kind)}
    return points | _files(_shipped_folder(kind))


@cache  # it takes twenty milliseconds
def _entry_points(kind: Kind) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"bench.{kind}s"))


@cache
def _shipped_folder(kind: Kind) -> Path:
    package = importlib.util.find_spec(f"harness.{kind}s")
    assert package is not None
    assert package.submodule_search_locations is not None
    return Path(next(iter(package.submodule_search_locations)))


def _files(folder: Path) -> dict[str, Listing]:
    paths = {path.stem.replace("_", "-"): path for path in folder.glob("[!_]*.py")}
    return {name: Listing(name, path) for name, path in paths.items()}


def find(kind: Kind, text: str) -> NamedPlugin:
    """The plugin that `text` names: `hvae`, `hvae-untempered`, `gaussian-400`, `./mine.py:Mine`,
    `package.module:Class`.

    Raises:
        UnknownName: nothing has that name, or the class has no such variant.
        PluginError: the file or module cannot be loaded.
    """
    if ":" in text or text.endswith(".py"):
        return _from_path(kind, text)
    known = listings(kind)
    if text in known:
        return _from_listing(kind, known[text])
    stem = text
    while "-" in stem:
        stem = stem.rpartition("-")[0]
        if stem in known:
            plugin = _from_listing(kind, known[stem])
            fields = _variant_fields(kind, plugin.cls, stem, text[len(stem) + 1 :])
            return replace(plugin, fields=fields)
    raise UnknownName(kind, text, known, f"bench list {kind}s")


def _variant_fields(kind: Kind, cls: Any, name: str, variant: str) -> dict[str, Any]:
    if kind == "task":
        if cls.variant is None:
            raise UnknownName("task", f"{name}-{variant}", listings("task"), "bench list tasks")
        return {cls.variant: variant}
    if variant not in cls.variants:
        known = [*listings("method"), *(f"{name}-{known}" for known in cls.variants)]
        raise UnknownName("method", f"{name}-{variant}", known, "bench list methods")
    return dict(cls.variants[variant])


def _from_listing(kind: Kind, item: Listing) -> NamedPlugin:
    origin = item.origin
    if isinstance(origin, EntryPoint):
        module, attribute = origin.module, origin.attr
    elif origin.parent == _shipped_folder(kind):
        module, attribute = f"{kind}s.{origin.stem}", ""
    else:
        return _from_path(kind, str(origin))
    return NamedPlugin(_class_in(kind, imported(module), attribute, item.name), item.name)


def _from_path(kind: Kind, text: str) -> NamedPlugin:
    place, _, attribute = text.rpartition(":") if ":" in text else (text, "", "")
    if not place.endswith(".py"):
        if is_installed(place):
            return NamedPlugin(_class_in(kind, imported(place), attribute, text), text)
        path = Path(imported(place).__file__ or "")
        source = read(path, path.parents[len(place.split(".")) - (path.name != "__init__.py")])
    else:
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise UnknownName(
                f"{kind} file", place, sorted(str(near) for near in Path().glob("*.py"))
            )
        source = read(path)
    cls = _class_in(kind, executed(source), attribute, text)
    named[source.digest] = source
    return NamedPlugin(cls, cls.name, source=source)


def of_class(kind: Kind, cls: type) -> NamedPlugin:
    """Return the plugin that a class is, as `find` would name it; of a notebook, by its text.

    Raises:
        PluginError: its text is not known, or refers to what cannot be stored.
        UsageError: it lacks what every plugin has.
    """
    text, name = f"{cls.__module__}:{cls.__qualname__}", getattr(cls, "name", "")
    for source in named.values():
        if cls.__module__ == source.module:
            return NamedPlugin(cls, name, source=source)
    if not notebook_source.is_notebook_class(cls):
        is_known = name in installed(kind) and find(kind, name).cls is cls
        return find(kind, name) if is_known else _from_path(kind, text)
    source = notebook_source.source_of(cls)
    loaded = _class_in(kind, executed(source), cls.__name__, text)
    named[source.digest] = source
    return NamedPlugin(loaded, loaded.name, source=source)


def _subclasses_in(kind: Kind, module: ModuleType) -> list[Any]:
    """The subclasses of `Method` or `Task` that a module defines, abstract ones too."""
    from harness import api

    base = api.Method if kind == "method" else api.Task
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    return [cls for cls in own if issubclass(cls, base)]


def _classes_in(kind: Kind, module: ModuleType) -> list[Any]:
    return [cls for cls in _subclasses_in(kind, module) if hasattr(cls, "name")]


def _class_in(kind: Kind, module: ModuleType, attribute: str, name: str) -> Any:
    subclasses, classes = _subclasses_in(kind, module), _classes_in(kind, module)
    names = [cls.__name__ for cls in classes]
    allowed = [attribute] if attribute else names
    candidates = [cls for cls in subclasses if cls.__name__ in allowed]
    if attribute and not candidates:
        raise UnknownName(f"{kind} class in {name.rpartition(':')[0]}", attribute, names)
    if len(candidates) != 1:
        base = kind.capitalize()
        raise UsageError(
            f"'{name}' must name one subclass of {base} with a `name`: FILE.py:CLASS. It has: "
            f"{', '.join(names) or 'none'}."
        )
    unnamed = [] if candidates[0] in classes else ["name"]
    if missing := [*unnamed, *sorted(candidates[0].__abstractmethods__)]:
        raise UsageError(
            f"'{name}' lacks what every {kind} has: {', '.join(missing)}. See docs/add-a-{kind}.md."
        )
    return candidates[0]


def check_identity(kind: Kind, plugin: NamedPlugin) -> None:
    """Refuse a class that is not installed and whose `name`, under which its runs are stored, is
    no name or another class's.

    Raises:
        UsageError: it is such a class.
    """
    if plugin.source is None:
        return
    name, claim = plugin.cls.name, f"{plugin.cls.__name__} in {plugin.source.main} calls itself"
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,59}", str(name), re.ASCII):
        raise UsageError(
            f"{claim} {name!r}. A `name` is up to 60 letters, digits and - _ . +, such as "
            f"'my-{kind}'."
        )
    if name in installed(kind):
        raise UsageError(
            f"{claim} '{name}', as an installed {kind} does. Give the class another `name`."
        )
    twins = [
        cls.__name__
        for cls in _classes_in(kind, sys.modules[plugin.cls.__module__])
        if cls.name == name and cls is not plugin.cls
    ]
    if twins:
        raise UsageError(
            f"{claim} '{name}', as {twins[0]} beside it does. Give one of them another `name`."
        )


def load(spec: RunSpec, source_of: Callable[[str], Source]) -> tuple[Method, Task]:
    """The method and the task of a run, those that are not installed from the text that `source_of`
    gives for its digest.

    Raises:
        UnknownName: nothing installed has that name.
        PluginError: a class cannot be loaded, or its fields are others.
    """
    method = _class_of("method", spec.method, spec.method_source, source_of)
    task = _class_of("task", spec.task, spec.task_source, source_of)
    return (
        rebuild(method, f"method '{spec.method}'", spec.method_fields, "method."),
        rebuild(task, f"task '{spec.task}'", spec.task_fields, "task."),
    )


def _class_of(kind: Kind, name: str, digest: str | None, source_of: Callable[[str], Source]) -> Any:
    if digest is not None:
        classes = [
            cls for cls in _classes_in(kind, executed(source_of(digest))) if cls.name == name
        ]
        if len(classes) != 1:
            raise PluginError(
                f"The stored text of the {kind} '{name}' has no class of that name. Put a backup "
                "of the database in its place."
            )
        return classes[0]
    module, colon, _ = name.partition(":")
    if colon and (module.endswith(".py") or not is_installed(module)):
        raise PluginError(
            f"The {kind} '{name}' is not installed, and its code was not kept. Queue it anew with "
            "its path: ./mine.py:Mine."
        )
    return find(kind, name).cls


def build(cls: type[Model], whose: str, values: dict[str, Any], prefix: str = "") -> Model:
    """`cls` with the fields `values`; text is read as the field's type asks.

    Raises:
        UnknownName: a field that does not exist.
        InvalidSetting: a value that is not allowed.
    """
    from pydantic import ValidationError

    for name in values:
        if name not in cls.model_fields:
            known = [f"{prefix}{field}" for field in cls.model_fields]
            raise UnknownName(f"field of {whose}", f"{prefix}{name}", known)
    typed = {
        name: _typed(cls, name, value) if isinstance(value, str) else value
        for name, value in values.items()
    }
    try:
        return cls(**typed)
    except ValidationError as err:
        first = err.errors()[0]
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if not first["loc"]:
            raise InvalidSetting(f"{whose[0].upper()}{whose[1:]}: {message}.") from err
        name = str(first["loc"][0])
        if first["type"] == "missing":
            raise InvalidSetting(
                f"{prefix}{name} of {whose} has no value. Give one: --set {prefix}{name}=VALUE."
            ) from err
        raise InvalidSetting(
            f"{prefix}{name}={shortened(str(values.get(name)), 60)} is not allowed for {whose}: it "
            f"{message}."
        ) from err


def rebuild(cls: type[Model], whose: str, stored: dict[str, Any], prefix: str = "") -> Model:
    """`cls` with the fields of a stored run, which had the former value where one was added later.

    Raises: as `build`.
    """
    from harness.base.spec import former_values

    return build(cls, whose, {**former_values(cls), **stored}, prefix)


def _typed(cls: type[BaseModel], name: str, text: str) -> Any:
    """The first reading of `text` that the field's type allows: as it stands, as none, as JSON."""
    import json

    from pydantic import TypeAdapter, ValidationError

    readings: list[Any] = [text]
    if text.lower() in ("none", "null"):
        readings.append(None)
    with suppress(ValueError, RecursionError):
        readings.append(json.loads(text))
    adapter: TypeAdapter[Any] = TypeAdapter(cls.model_fields[name].annotation or Any)
    for reading in readings:
        try:
            return adapter.validate_python(reading)
        except ValidationError:
            continue
    return text


def settled(plugin: BaseModel) -> dict[str, Any]:
    """A plugin's fields as a spec holds them.

    Raises:
        InvalidSetting: a value that cannot be stored.
    """
    from harness.base.spec import settled_fields, stored_fields

    stored = stored_fields(plugin)
    return {name: stored[name] for name in settled_fields(type(plugin), plugin.model_dump())}


def method_label(cls: Any, name: str, fields: dict[str, Any]) -> str:
    """The name with its variant, where the fields are one: `hvae-untempered`."""
    from harness.base.spec import plain

    for variant, filled in cls.variants.items():
        if all(fields.get(key) == value for key, value in plain(filled).items()):
            return f"{name}-{variant}"
    return name


def task_label(name: str, task: Task) -> str:
    """The name with its variant: `gaussian-400`."""
    return name if task.variant is None else f"{name}-{getattr(task, task.variant)}"
