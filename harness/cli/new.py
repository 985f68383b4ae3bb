"""`bench new`: start a method, a task or a study from a file that works."""

from __future__ import annotations

import re
from pathlib import Path

import click

from harness.base.errors import UsageError
from harness.cli._output import say, write_out

ENDINGS = {"method": ".py", "task": ".py", "study": ".yaml"}
NEXT = {
    "method": "bench check ./{file}   then: bench run -m ./{file} -t gaussian-25 --protocol smoke",
    "task": "bench check ./{file}   then: bench run -m vb -m iaf -t ./{file} --protocol smoke",
    "study": "bench check ./{file}   then: bench study run ./{file} --dry-run",
}


@click.command()
@click.argument("kind", type=click.Choice(list(ENDINGS)))
@click.argument("name")
def new(kind: str, name: str) -> None:
    """Write a method, a task or a study to start from into the current folder.

    The file is complete: `bench check` accepts it as it stands. Replace its parts by yours.

    \b
    Examples:
      bench new method my-flow
      bench new task my-target
      bench new study my-sweep
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from harness.plan import registry

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z][a-z0-9]*)*", name) or len(name) > 60:
        raise UsageError(
            f"'{name}' is no name for a {kind}. Use small letters, digits and hyphens, each part "
            f"beginning with a letter: my-{kind}."
        )
    if kind != "study" and name in registry.installed(kind):  # pyright: ignore[reportArgumentType]
        raise UsageError(f"There is a {kind} '{name}' already. Choose another name.")
    file = Path(name.replace("-", "_") + ENDINGS[kind])
    if file.exists():
        raise UsageError(f"{file} already exists. Choose another name, or move it away.")
    words = name.split("-")
    environment = Environment(
        loader=PackageLoader("harness.cli", "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    text = environment.get_template(f"{kind}{ENDINGS[kind]}.j2").render(
        name=name,
        file=file,
        title=" ".join(words).capitalize(),
        class_name="".join(word.capitalize() for word in words),
    )
    write_out(text.encode(), file)
    say(f"Next: {NEXT[kind].format(file=file)}", err=True)
