"""Names to classes: plugins are found by file name, entry point or path, and built from plain values."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from harness.errors import InvalidSetting, UnknownName, UsageError
from harness.sources import executed, imported

if TYPE_CHECKING:
    from pydantic import BaseModel

    from harness.api import Method, Task

Kind = Literal["method", "task"]
Model = TypeVar("Model", bound="BaseModel")


@dataclass(frozen=True)
class Listing:
    """A plugin that can be named, as far as it is known without importing it."""

    name: str
    origin: Path | EntryPoint

    @property
    def summary(self) -> str:
        """The first line of the file's docstring, or where the plugin comes from."""
        if isinstance(self.origin, EntryPoint):
            return f"from {self.origin.value}"
        return (ast.get_docstring(ast.parse(self.origin.read_text(encoding="utf-8"))) or "").partition("\n")[0]


@dataclass(frozen=True)
class Found:
    """A plugin's class, the name that loads it again, and the fields that the rest of what was typed fills."""

    cls: Any
    name: str
    fields: dict[str, Any] = field(default_factory=dict)


def listings(kind: Kind) -> dict[str, Listing]:
    """Every plugin by name. File names are read; nothing is imported."""
    installed = [Listing(point.name, point) for point in _entry_points(kind)]
    return {item.name: item for item in sorted([*installed, *_files(kind)], key=lambda item: item.name)}


@cache
def _entry_points(kind: Kind) -> tuple[EntryPoint, ...]:
    """Those of installed packages, which a process looks through once: it takes twenty milliseconds."""
    return tuple(entry_points(group=f"bench.{kind}s"))


def _files(kind: Kind) -> Iterator[Listing]:
    package = importlib.util.find_spec(f"{kind}s")
    for folder in (package.submodule_search_locations if package else None) or []:
        for path in Path(folder).glob("[!_]*.py"):
            yield Listing(path.stem.replace("_", "-"), path)


def find(kind: Kind, text: str) -> Found:
    """The plugin that `text` names: `hvae`, `hvae-untempered`, `gaussian-400`, `./mine.py:Mine`, `package.module:Class`.

    Raises:
        UnknownName: nothing has that name, or the class has no such variant.
        PluginError: the file or module cannot be loaded.
    """
    if ":" in text or text.endswith(".py"):
        return Found(*_from_path(kind, text))
    known = listings(kind)
    if text in known:
        return Found(_from_listing(kind, known[text]), text)
    stem = text
    while "-" in stem:
        stem = stem.rpartition("-")[0]
        if stem in known:
            cls = _from_listing(kind, known[stem])
            return Found(cls, stem, _variant_fields(kind, cls, stem, text[len(stem) + 1 :]))
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


def _from_listing(kind: Kind, item: Listing) -> Any:
    module = item.origin.module if isinstance(item.origin, EntryPoint) else f"{kind}s.{item.origin.stem}"
    attribute = item.origin.attr if isinstance(item.origin, EntryPoint) else ""
    return _class_in(kind, imported(module), attribute, item.name)


def _from_path(kind: Kind, text: str) -> tuple[Any, str]:
    place, _, attribute = text.rpartition(":") if ":" in text else (text, "", "")
    if not place.endswith(".py"):
        return _class_in(kind, imported(place), attribute, text), text
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise UnknownName(f"{kind} file", place, sorted(str(near) for near in Path().glob("*.py")))
    module = executed(path)
    cls = _class_in(kind, module, attribute, text)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return cls, f"./{shown}:{cls.__name__}" if not shown.is_absolute() else f"{shown}:{cls.__name__}"


def _class_in(kind: Kind, module: ModuleType, attribute: str, name: str) -> Any:
    from harness import api

    base = api.Method if kind == "method" else api.Task
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__ and hasattr(value, "name")
    ]
    chosen = [cls for cls in classes if cls.__name__ == attribute] if attribute else classes
    names = [cls.__name__ for cls in classes]
    if attribute and not chosen:
        raise UnknownName(f"{kind} class in {name.rpartition(':')[0]}", attribute, names)
    if len(chosen) != 1:
        raise UsageError(
            f"'{name}' must name one subclass of {base.__name__} with a `name`: FILE.py:CLASS. It has: {', '.join(names) or 'none'}."
        )
    if lacking := sorted(chosen[0].__abstractmethods__):
        raise UsageError(f"'{name}' lacks what every {kind} has: {', '.join(lacking)}. See docs/add-a-{kind}.md.")
    return chosen[0]


def load_method(name: str, fields: dict[str, Any]) -> Method:
    """The method of a spec."""
    return build(find("method", name).cls, f"method '{name}'", fields, "method.")


def load_task(name: str, fields: dict[str, Any]) -> Task:
    """The task of a spec."""
    return build(find("task", name).cls, f"task '{name}'", fields, "task.")


def build(cls: type[Model], whose: str, values: dict[str, Any], prefix: str = "") -> Model:
    """`cls` with the fields `values`; text is read as the field's type asks.

    Raises:
        UnknownName: a field that does not exist.
        InvalidSetting: a value that is not allowed.
    """
    from pydantic import ValidationError

    from harness.spec import former_values

    for name in values:
        if name not in cls.model_fields:
            raise UnknownName(f"field of {whose}", f"{prefix}{name}", [f"{prefix}{field}" for field in cls.model_fields])
    typed = {name: _typed(cls, name, value) if isinstance(value, str) else value for name, value in values.items()}
    try:
        return cls(**{**former_values(cls), **typed})
    except ValidationError as err:
        first = err.errors()[0]
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if not first["loc"]:
            raise InvalidSetting(f"{whose[0].upper()}{whose[1:]}: {message}.") from err
        name = str(first["loc"][0])
        if first["type"] == "missing":
            raise InvalidSetting(f"{prefix}{name} of {whose} has no value. Give one: --set {prefix}{name}=VALUE.") from err
        raise InvalidSetting(f"{prefix}{name}={_shown(values.get(name))} is not allowed for {whose}: it {message}.") from err


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


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
    """A plugin's fields as a spec holds them."""
    from harness.spec import settled_fields

    return settled_fields(type(plugin), plugin.model_dump())


def method_label(name: str, fields: dict[str, Any]) -> str:
    """The name with its variant, where the fields are one: `hvae-untempered`; of a path, its last part."""
    if ":" in name:
        return name.rpartition("/")[2]
    for variant, filled in _variants(name).items():
        if all(fields.get(key) == value for key, value in filled.items()):
            return f"{name}-{variant}"
    return name


def method_and_variant(label: str) -> tuple[str, dict[str, Any]]:
    """The inverse of `method_label`: a method's name, and the fields that its variant fills."""
    for name in listings("method"):
        for variant, fields in _variants(name).items():
            if label == f"{name}-{variant}":
                return name, fields
    return label, {}


@cache
def _variants(name: str) -> dict[str, dict[str, Any]]:
    """A method's variants, read from its file without importing it."""
    item = listings("method").get(name)
    if item is None:  # a plugin that has gone since: its stored name still says what it was
        return {}
    if not isinstance(item.origin, Path):
        return find("method", name).cls.variants
    for node in ast.walk(ast.parse(item.origin.read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "variants" and node.value is not None:
            return ast.literal_eval(node.value)
    return {}


def task_label(name: str, task: Task) -> str:
    """The name with its variant: `gaussian-400`."""
    return name if task.variant is None else f"{name}-{getattr(task, task.variant)}"
