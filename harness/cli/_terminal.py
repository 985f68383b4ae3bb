"""A terminal that stored text cannot steer: the only place that makes consoles and bars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from harness.base.errors import harmless

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task


class Harmless(Console):
    """Rich's console, where text is only text: `[red]` and `:crab:` are shown as they stand,
    control characters written out.
    """

    def __init__(self, *, plain: bool = False, **options: Any) -> None:
        super().__init__(
            **options,
            color_system=None if plain else "auto",
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, of the text as it will be printed: tables measure it."""
        return super().render_str(harmless(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich's; what rich itself writes to move the cursor stays."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)


def bars(*columns: ProgressColumn, transient: bool = False) -> Progress:
    """Bars on stderr, each behind its description."""
    from rich.progress import Progress

    return Progress(
        as_it_stands("{task.description}"),
        *columns,
        console=Harmless(stderr=True),
        transient=transient,
    )


def as_it_stands(pattern: str) -> ProgressColumn:
    """A column of bars whose texts are only texts."""
    from rich.progress import TextColumn

    class Column(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(harmless(self.text_format.format(task=task)))

    return Column(pattern)
