"""Methods crossed with tasks, seeds and settings: from what was typed to the specs of the runs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from harness.api import Method, Task
from harness.base.errors import InvalidSelector, InvalidSetting, UnknownName, shortened
from harness.base.spec import NewRun, Protocol, RunSpec, stored_fields
from harness.plan import registry
from harness.plan.description import describe
from harness.plan.plugin_source import source_hash
from harness.plan.registry import NamedPlugin

SELECTOR = re.compile(r"^(?P<name>[^\[\]]+)(?P<settings>(\[[^\[\]]*\])*)$")
LARGEST_RANGE = 100_000
LARGEST_GRID = 1_000_000
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Setting:
    """One way to fill in a selector: a plugin with values for some of its fields."""

    plugin: NamedPlugin
    values: dict[str, Any]


def parse_selector(kind: registry.Kind, text: str) -> list[Setting]:
    """Every plugin with settings that `hvae[n_leapfrog=1,10][tempering=fixed,none]` stands for.

    Raises:
        InvalidSelector: the text does not parse.
        UnknownName: there is no such plugin.
    """
    match = SELECTOR.match(text.strip())
    if match is None:
        raise InvalidSelector(
            f"Cannot read '{text}'. Write a name, or name[field=value,value][field=value]."
        )
    try:
        plugin = registry.find(kind, match["name"].strip())
    except (OSError, RuntimeError, ValueError) as err:  # a file name that no file can have
        raise InvalidSelector(f"Cannot read '{text}': {str(err).rstrip('.')}.") from err
    choices: dict[str, list[str]] = {}
    for bracket in re.findall(r"\[([^\[\]]*)\]", match["settings"]):
        name, equals, values = bracket.partition("=")
        alternatives = [value.strip() for value in values.split(",")]
        if not equals or not name.strip() or not all(alternatives):
            raise InvalidSelector(
                f"Cannot read '[{bracket}]' in '{text}'. Write [field=value] or "
                "[field=value,value]."
            )
        choices.setdefault(name.strip(), []).extend(alternatives)
    refuse_too_many(math.prod(map(len, choices.values())))
    return [
        Setting(plugin, {**plugin.fields, **dict(zip(choices, values, strict=True))})
        for values in itertools.product(*choices.values())
    ]


def settings_of(kind: registry.Kind, selector: Any, as_stored: bool = True) -> list[Setting]:
    """Return every setting that a name, a class or an instance stands for.

    `as_stored`: a class as the plugin that its text makes, which can be stored; else as it is.

    Raises:
        UsageError: a name or field that is not allowed.
        PluginError: the text of a class is not known, or refers to what cannot be stored.
    """
    if isinstance(selector, str):
        return parse_selector(kind, selector)
    cls = selector if isinstance(selector, type) else type(selector)
    base = Method if kind == "method" else Task
    if not issubclass(cls, base):
        raise InvalidSelector(
            f"A {kind} is a name, a subclass of {base.__name__} or an instance of one, not "
            f"{shortened(repr(selector), 60)}."
        )
    plugin = (
        registry.of_class(kind, cls) if as_stored else NamedPlugin(cls, getattr(cls, "name", ""))
    )
    return [Setting(plugin, {} if cls is selector else selector.model_dump())]


def matches_any(patterns: Sequence[str], names: Collection[str], fields: Mapping[str, Any]) -> bool:
    """Whether a pattern stands for a plugin of these names with these settings; none is for all.

    >>> matches_any(["hvae*"], ["hvae", "hvae-untempered"], {}), matches_any([], ["vb"], {})
    (True, True)
    >>> matches_any(["hvae[n_leapfrog=1,10]"], ["hvae"], {"n_leapfrog": 10})
    True
    >>> matches_any(["*[n_leapfrog=1]"], ["hvae"], {"n_leapfrog": 10})
    False
    """
    texts = {
        name: "none" if value is None else str(value).lower() for name, value in fields.items()
    }

    def fits(pattern: str) -> bool:
        required = re.findall(r"\[(\w+)=([^\[\]]*)\]", pattern)
        bare = re.sub(r"\[\w+=[^\[\]]*\]", "", pattern)
        return any(name == bare or fnmatchcase(name, bare) for name in names) and all(
            texts.get(name) in [value.strip().lower() for value in values.split(",")]
            for name, values in required
        )

    return not patterns or any(map(fits, patterns))


def refuse_too_many(count: int) -> None:
    """Stop before a grid that nobody can have meant.

    Raises:
        InvalidSelector: it has more than `LARGEST_GRID` runs.
    """
    if count > LARGEST_GRID:
        raise InvalidSelector(
            f"These are {count:,} runs; at most {LARGEST_GRID:,} are made together. Split them "
            "over several commands."
        )


def parse_seeds(text: str) -> list[int]:
    """Seeds from `0-9,12`, in order and once each.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]

    Raises:
        InvalidSelector: the text does not parse, or a range runs backwards.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,100})(?:\s*-\s*(\d{1,100}))?\s*", part)
        if match is None:
            raise InvalidSelector(
                f"Cannot read seeds '{text}' at '{part}'. Write whole numbers and ranges: 0-9,12."
            )
        start, end = int(match[1]), int(match[2] or match[1])
        if end < start or end > LARGEST_SEED or end - start >= LARGEST_RANGE:
            raise InvalidSelector(
                f"Seeds '{part.strip()}' run backwards, are more than {LARGEST_RANGE:,} or beyond "
                f"{LARGEST_SEED}."
            )
        seeds |= dict.fromkeys(range(start, end + 1))
    return list(seeds)


def ranges(seeds: Collection[int]) -> str:
    """Seeds as `--seeds` takes them.

    >>> ranges([2, 0, 1, 7])
    '0-2,7'
    """
    distinct = set(seeds)
    starts = sorted(seed for seed in distinct if seed - 1 not in distinct)
    ends = sorted(seed for seed in distinct if seed + 1 not in distinct)
    return ",".join(
        str(start) if start == end else f"{start}-{end}"
        for start, end in zip(starts, ends, strict=True)
    )


def parse_sets(texts: Sequence[str]) -> dict[str, str]:
    """Addresses and values from `FIELD=VALUE` texts; the last of an address wins.

    Raises:
        InvalidSelector: no `=` or an empty side.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise InvalidSelector(
                f"Cannot read --set '{text}'. Write FIELD=VALUE: lr=1e-3, method.n_leapfrog=5 or "
                "task.rho=0.7."
            )
        values[name.strip()] = value.strip()
    return values


def expand(
    methods: Sequence[str | Method | type[Method]],
    tasks: Sequence[str | Task | type[Task]],
    seeds: Sequence[int],
    protocol: str | None = None,
    sets: dict[str, Any] | None = None,
    preset: Callable[[Setting, Setting], tuple[str, dict[str, Any]]] | None = None,
) -> list[NewRun]:
    """The runs of a grid, each once, replicates of a cell side by side; `preset` gives a protocol
    and settings to each cell.

    Raises:
        UsageError: a name, field or value that is not allowed.
    """
    rows = [setting for selector in methods for setting in settings_of("method", selector)]
    columns = [setting for selector in tasks for setting in settings_of("task", selector)]
    refuse_too_many(len(rows) * len(columns) * len(seeds))
    runs = {}
    for method, task in itertools.product(rows, columns):
        preset_protocol, below = preset(method, task) if preset else (None, {})
        for run in cell_runs(method, task, seeds, protocol or preset_protocol, sets or {}, below):
            runs.setdefault(run.spec.key, run)
    return list(runs.values())


def cell_runs(
    method: Setting,
    task: Setting,
    seeds: Sequence[int],
    protocol: str | None,
    sets: dict[str, Any],
    below: dict[str, Any] | None = None,
) -> list[NewRun]:
    """A run for each seed; the selectors' values win over `below`, and `sets` over them."""
    registry.check_identity("method", method.plugin)
    registry.check_identity("task", task.plugin)
    name = protocol or task.plugin.cls.default_protocol
    values = {**(below or {}), **selected(method, task), **sets}
    resolved = resolve(method.plugin, task.plugin, name, values)
    template = resolved.spec(seeds[0])
    # What need not be said of a run: the same pair where nothing was asked for.
    bare_method, bare_task = (replace(each.plugin, fields={}) for each in (method, task))
    cls = task.plugin.cls
    variant = {f"task.{cls.variant}": getattr(resolved.task, cls.variant)} if cls.variant else {}
    defaults = resolve(bare_method, bare_task, cls.default_protocol, variant).addresses()
    settings = {
        address: value
        for address, value in resolved.addresses().items()
        if defaults.get(address) != value
    }
    shared = NewRun(
        spec=template,
        task_label=registry.task_label(task.plugin.name, resolved.task),
        settings=settings,
        source_hash=f"{_source(method.plugin)}-{_source(task.plugin)}",
        protocol=name,
        description=describe(resolved.method, resolved.task, template, settings, name),
        sources={
            plugin.source.digest: plugin.source.text
            for plugin in (method.plugin, task.plugin)
            if plugin.source
        },
    )
    return [replace(shared, spec=spec) for spec in template.replicates(seeds)]


def selected(method: Setting, task: Setting) -> dict[str, Any]:
    """The values of two selectors by address: a field of the plugin, else one of the protocol,
    where the task's wins.
    """
    values = {}
    for kind, setting in (("method", method), ("task", task)):
        own = setting.plugin.cls.model_fields
        for name, value in setting.values.items():
            of_protocol = name.replace("lr.", "lr_") in Protocol.model_fields and name not in own
            values[name if of_protocol else f"{kind}.{name}"] = value
    return values


def _source(plugin: NamedPlugin) -> str:
    return plugin.source.digest[:16] if plugin.source else source_hash(plugin.cls)


@dataclass(frozen=True)
class Resolved:
    """A method, a task and a protocol with every field filled in."""

    method_plugin: NamedPlugin
    method: Method
    task_plugin: NamedPlugin
    task: Task
    protocol: Protocol

    def spec(self, seed: int) -> RunSpec:
        """The run of one seed."""
        return RunSpec(
            method=self.method_plugin.name,
            method_version=self.method.version,
            method_fields=registry.settled(self.method),
            method_source=self.method_plugin.source and self.method_plugin.source.digest,
            task=self.task_plugin.name,
            task_version=self.task.version,
            task_fields=registry.settled(self.task),
            task_source=self.task_plugin.source and self.task_plugin.source.digest,
            seed=seed,
            **self.protocol.model_dump(),
        )

    def addresses(self) -> dict[str, Any]:
        """Every field by the address that `--set` knows it under."""
        of_method = {f"method.{name}": value for name, value in stored_fields(self.method).items()}
        of_task = {f"task.{name}": value for name, value in stored_fields(self.task).items()}
        return of_method | of_task | self.protocol.model_dump()


def _require_fitting(method: NamedPlugin, task: NamedPlugin, protocol: Protocol) -> None:
    """Raise InvalidSetting where the protocol asks for what the method or the task has not."""
    if protocol.weighs_given_draws and not method.cls.weighs_given_draws():
        setting, instead = f"gradient={protocol.gradient}", "gradient=total"
        if protocol.bound == "log-variance":
            setting, instead = "bound=log-variance", "bound=elbo"
        raise InvalidSetting(
            f"{setting} needs the log-weight of a given draw, which method '{method.name}' does "
            f"not give. Use {instead}."
        )
    if protocol.base != "prior" and not method.cls.uses_base:
        raise InvalidSetting(
            f"base={protocol.base}: method '{method.name}' does not use the base, and would leave "
            "its parameters as they are. Use base=prior."
        )
    if protocol.batch_size is not None and not task.cls.has_mini_batches:
        raise InvalidSetting(
            f"batch_size={protocol.batch_size}: task '{task.name}' has no mini-batches, which need "
            "log_prior() and log_likelihood() in place of log_joint(). Leave batch_size out."
        )


def resolve(
    method: NamedPlugin, task: NamedPlugin, protocol: str, values: dict[str, Any]
) -> Resolved:
    """Fill in every field; later wins: class defaults, the task's recommendation, the protocol,
    what the names say (`gaussian-400` is `gaussian` with dim=400), `values` by address.

    Raises:
        UnknownName: no such protocol or field.
        InvalidSetting: a value that is not allowed.
    """
    if protocol not in task.cls.protocols:
        kind, see = f"protocol of task '{task.name}'", f"bench show {task.name}"
        raise UnknownName(kind, protocol, task.cls.protocols, see)
    layers = {
        "bound": method.cls.bound,
        "base": method.cls.base or task.cls.default_base,
        **task.cls.recommended.get(method.name, {}),
        **task.cls.protocols[protocol],
        **{f"method.{name}": value for name, value in method.fields.items()},
        **{f"task.{name}": value for name, value in task.fields.items()},
        **values,
    }
    layers = {re.sub(r"^lr\.", "lr_", address): value for address, value in layers.items()}
    models = {"": Protocol, "method.": method.cls, "task.": task.cls}
    known = [f"{prefix}{name}" for prefix, cls in models.items() for name in cls.model_fields]
    for address in layers:
        if address not in known:
            fitting = [each for each in known if each.partition(".")[2] == address]
            kind, see = f"field of {method.name} on {task.name}", f"bench show {method.name}"
            raise UnknownName(kind, address, fitting or known, see)

    def fields(prefix: str) -> dict[str, Any]:
        names = {name: name.removeprefix(prefix) for name in layers if name.startswith(prefix)}
        return {name: layers[address] for address, name in names.items() if "." not in name}

    built = registry.build(Protocol, "the protocol", fields(""))
    _require_fitting(method, task, built)
    return Resolved(
        method,
        registry.build(method.cls, f"method '{method.name}'", fields("method."), "method."),
        task,
        registry.build(task.cls, f"task '{task.name}'", fields("task."), "task."),
        built,
    )
