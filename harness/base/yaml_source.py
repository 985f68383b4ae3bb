"""YAML files as plain values that know their lines: no aliases, no tags, no types; a scalar is the
text that stands there.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.base.errors import UsageError

LARGEST = 1_000_000  # bytes of a file
LONGEST = 500  # characters of a text
DEEPEST = 10  # lists and mappings within one another
CORE = "tag:yaml.org,2002:"
KINDS = {
    f"{CORE}{kind}"
    for kind in ("bool", "float", "int", "map", "merge", "null", "seq", "str", "timestamp", "value")
}
QUOTE = ' A text with brackets or commas needs quotes: "hvae[n_leapfrog=1,10]".'

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
        nearest_place = next(
            place[:size] for size in range(len(place), -1, -1) if place[:size] in self.lines
        )
        place_text = f", {address(place)}" if place else ""
        return " ".join(
            (
                f"{self.name}, line {line or self.lines[nearest_place]}{place_text}: {message}"
            ).split()
        )


def address(place: Place) -> str:
    """A place as one writes it.

    >>> address(("grids", 0, "set", "method.tied"))
    'grids[0].set.method.tied'
    """
    return "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in place
    ).removeprefix(".")


def read(path: Path, name: str) -> Document:
    """The values of a file, which messages call `name`.

    Raises:
        FileNotFoundError: there is no such file.
        UsageError: the file cannot be read, is no YAML, or holds more than plain values.
    """
    text = _text(path, name)
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as err:
        line = text.count("\n", 0, err.position) + 1
        raise UsageError(
            f"{name}, line {line}: the character {_code(text[err.position])} is not allowed."
        ) from err
    try:
        node = loader.get_single_node()
    except _NotPlain as err:
        raise UsageError(f"{name}, line {err.line}: {err}") from err
    except yaml.MarkedYAMLError as err:
        raise UsageError(_syntax(name, err)) from err
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
    ) as err:  # the scanner's own slips, as on "\Uffffffff"
        raise UsageError(
            f"{name}, line {loader.get_mark().line + 1}: this is not YAML: "
            f"{' '.join(str(err).split())}."
        ) from err
    finally:
        loader.dispose()
    if node is None:
        raise UsageError(f"{name}: the file is empty.")
    lines: dict[Place, int] = {}
    return Document(name, _value(Document(name, lines=lines), node, (), _line(node)), lines)


def _text(path: Path, name: str) -> str:
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
        return content.decode("utf-8")
    except UnicodeDecodeError as err:
        line = content.count(b"\n", 0, err.start) + 1
        raise UsageError(
            f"{name}, line {line}: byte {content[err.start]:#04x} is not UTF-8. Save the file as "
            "UTF-8 text."
        ) from err


def _syntax(name: str, err: yaml.MarkedYAMLError) -> str:
    mark = err.problem_mark or err.context_mark
    where = f", line {mark.line + 1}" if mark else ""
    descriptions = (
        (err.context, err.problem)
        if (err.problem or "").startswith("but")
        else (err.problem or err.context,)
    )
    problem = " ".join(" ".join(description or "" for description in descriptions).split())
    hint = QUOTE if problem.startswith("expected ',' or") else ""
    return f"{name}{where}: this is not YAML: {problem}.{hint}"


class _NotPlain(yaml.YAMLError):
    """YAML that holds more than plain values."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """The graph of a file's nodes, without aliases and not too deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML's."""
        event: Any = self.peek_event()
        line = event.start_mark.line + 1
        if event.anchor is not None:
            raise _NotPlain(
                line, "aliases are not supported. Write the value out where it is needed."
            )
        self.depth += 1
        if self.depth > DEEPEST:
            raise _NotPlain(line, f"lists and mappings are nested more than {DEEPEST} deep.")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _value(document: Document, node: yaml.Node, place: Place, line: int) -> Any:
    """A node as plain values; its line goes into the document."""
    document.lines[place] = line
    _refuse_tag(document, node, place, line)
    if isinstance(node, yaml.MappingNode):
        return _mapping(document, node, place)
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(document, item, (*place, number), _line(item))
            for number, item in enumerate(node.value)
        ]
    if node.tag != f"{CORE}null":
        return _clean(document, node.value, place, line)
    if not node.value:
        raise UsageError(document.at(place, "it has no value."))
    return None


def _mapping(document: Document, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in node.value:
        line = _line(key)
        _refuse_tag(document, key, place, line)
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(document.at(place, "the name of a field must be a text.", line))
        name = _clean(document, key.value, place, line)
        if name in values:
            first_line = document.lines[(*place, name)]
            raise UsageError(
                document.at(
                    (*place, name),
                    f"it stands there already, in line {first_line}. Keep one of them.",
                    line,
                )
            )
        values[name] = _value(document, value, (*place, name), line)
    return values


def _refuse_tag(document: Document, node: yaml.Node, place: Place, line: int) -> None:
    if node.tag not in KINDS:
        raise UsageError(
            document.at(
                place,
                (
                    f"the tag {node.tag.replace(CORE, '!!')[:60]} is not supported. Write plain "
                    "values."
                ),
                line,
            )
        )


def _clean(document: Document, text: str, place: Place, line: int) -> str:
    """A text that can be shown: without control characters, and not too long."""
    if len(text) > LONGEST:
        raise UsageError(
            document.at(
                place,
                f"a text of {len(text):,} characters is too long; {LONGEST} are allowed.",
                line,
            )
        )
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in "\n\t":
            raise UsageError(
                document.at(place, f"the character {_code(character)} is not allowed.", line)
            )
    return text


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
