"""YAML files as plain values that know their lines: no aliases, no tags, no types; a scalar is the
text that stands there.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.base.errors import UnknownName, UsageError, one_line

LARGEST = 1_000_000  # bytes of a file
LONGEST = 500  # characters of a text
DEEPEST = 10  # lists and mappings within one another
CORE = "tag:yaml.org,2002:"
KINDS = {
    f"{CORE}{kind}"
    for kind in ("bool", "float", "int", "map", "merge", "null", "seq", "str", "timestamp", "value")
}
QUOTE = ' A text with brackets or commas needs quotes: "hvae[n_leapfrog=1,10]".'
MAPPING = "write fields with values, name: value."
FAULTS = {
    "missing": "it is missing.",
    "too_short": "it is empty.",
    "string_too_short": "it is empty.",
    "string_type": "write a text.",
    "list_type": "write a list: [a, b].",
    "dict_type": MAPPING,
    "model_type": MAPPING,
    "model_attributes_type": MAPPING,
}
"""What pydantic's kinds of errors mean to whoever writes a file."""

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A file's `values`: mappings, lists, texts, and None for null; `lines` has the line of each by
    its place.
    """

    name: str
    values: Any = None
    lines: dict[Place, int] = field(default_factory=dict)

    def at(self, place: Place, message: str, line: int | None = None) -> str:
        """What is to be said about a place, in one line: file, line, field and message."""
        near = next(
            place[:size] for size in range(len(place), -1, -1) if place[:size] in self.lines
        )
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
        shown = f", {''.join(steps).removeprefix('.')}" if place else ""
        return " ".join(f"{self.name}, line {line or self.lines[near]}{shown}: {message}".split())

    def validated(
        self,
        model: type[Model],
        noun: str,
        parts: Mapping[str, tuple[str, type[BaseModel]]],
    ) -> Model:
        """Read the values as a model, which messages call `noun`; `parts` are the nouns and models
        of what lies in lists and mappings, by the name of their field.

        Raises:
            UsageError: the first fault, with file, line and field.
        """
        try:
            return model.model_validate(self.values)
        except ValidationError as err:
            # A field that is missing may be the one that is misspelt below.
            fault = min(
                err.errors(),
                key=lambda error: (error["type"] == "missing", self.lines.get(error["loc"], 0)),
            )
            place: Place = fault["loc"]
            usual = fault["msg"].removeprefix("Value error, ").rstrip(".") + "."
            message = FAULTS.get(fault["type"], usual)
            if fault["type"] == "extra_forbidden":
                owners = [
                    (noun, model),
                    *(parts[str(step)] for step in place[:-1] if step in parts),
                ]
                owner, owner_model = owners[-1]
                names = [field.alias or name for name, field in owner_model.model_fields.items()]
                message = str(UnknownName(f"field of {owner}", str(place[-1]), names))
            raise UsageError(self.at(place, message)) from err


def read(path: Path, name: str) -> Document:
    """The values of a file, which messages call `name`.

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: the file cannot be read, is no YAML, or holds more than plain values.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as err:  # ValueError: no file can have such a name
        raise UsageError(f"Cannot read {name}: {getattr(err, 'strerror', None) or err}.") from err
    if len(content) > LARGEST:
        raise UsageError(f"{name} is larger than {LARGEST:,} bytes.")
    try:
        node = yaml.compose(content.decode("utf-8"), _Loader)
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        raise UsageError(
            f"{name}, line {line}: byte {content[err.start]:#04x} is not UTF-8. Save the file as "
            "UTF-8 text."
        ) from err
    except (yaml.YAMLError, ValueError, OverflowError) as err:
        # The others are the scanner's own slips, as on "\Uffffffff".
        mark = getattr(err, "problem_mark", None)
        problem = getattr(err, "problem", None) or err
        where = f", line {mark.line + 1}" if mark else ""
        hint = QUOTE if str(problem).startswith("expected ',' or") else ""
        raise UsageError(
            one_line(f"{name}{where}: this is not plain YAML: {problem}.{hint}")
        ) from err
    if node is None:
        raise UsageError(f"{name}: the file is empty.")
    document = Document(name)
    values = _value(document, node, (), node.start_mark.line + 1)
    return Document(name, values, document.lines)


class _Loader(yaml.SafeLoader):
    """The graph of a file's nodes: without aliases and tags, not too deep, with texts that can be
    shown.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML's."""
        event: Any = self.peek_event()
        self.depth += 1
        node, problem = None, ""
        if event.anchor is not None:
            problem = "aliases are not supported. Write the value out where it is needed"
        elif self.depth > DEEPEST:
            problem = f"lists and mappings are nested more than {DEEPEST} deep"
        elif (node := super().compose_node(parent, index)) and node.tag not in KINDS:
            problem = f"the tag {node.tag.replace(CORE, '!!')[:60]} is not supported"
        elif isinstance(node, yaml.ScalarNode):
            problem = _fault_of(node.value)
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth -= 1
        return node


def _fault_of(text: str) -> str:
    """Why a text cannot be shown: it is too long, or has control characters."""
    if len(text) > LONGEST:
        return f"a text of {len(text):,} characters is too long; {LONGEST} are allowed"
    hidden = [
        f"the character U+{ord(character):04X} is not allowed"
        for character in text
        if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in "\n\t"
    ]
    return next(iter(hidden), "")


def _value(document: Document, node: yaml.Node, place: Place, line: int) -> Any:
    """A node as plain values; its line goes into the document."""
    document.lines[place] = line
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(document, item, (*place, number), item.start_mark.line + 1)
            for number, item in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(document.at(place, "the name of a field must be a text.", line))
            inside = (*place, key.value)
            if key.value in values:
                message = (
                    f"it stands there already, in line {document.lines[inside]}. Keep one of them."
                )
                raise UsageError(document.at(inside, message, line))
            values[key.value] = _value(document, value, inside, line)
        return values
    if node.tag != f"{CORE}null":
        return node.value
    if not node.value:
        raise UsageError(document.at(place, "it has no value."))
    return None
