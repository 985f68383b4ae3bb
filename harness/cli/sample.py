"""`bench sample`: draw images from the model of a stored run."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.base.errors import UsageError
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._options import bundle, plugins_option
from harness.cli._output import say, write_out
from harness.cli._selection import open_results

if TYPE_CHECKING:
    import numpy as np

    from harness.training.model import TrainedModel


def output_options(default: str) -> Any:
    """Return a decorator that adds `-o`, `--force` and `--allow-plugins`."""
    return bundle(
        click.option(
            "-o",
            "--output",
            default=default,
            metavar="FILE",
            type=click.Path(path_type=Path),
        ),
        click.option("--force", is_flag=True, help="Replace the file if it exists."),
        plugins_option,
    )


@click.command()
@click.argument("key", metavar="KEY")
@click.option(
    "-n",
    "n",
    default=64,
    type=click.IntRange(1, 100_000),
    help="How many images.",
)
@output_options("samples.png")
@click.option("--seed", default=0, type=click.IntRange(0), help="Which draws.")
def sample(key: str, n: int, output: Path, seed: int, force: bool, any_plugin: bool) -> None:
    """Draw images from a trained model: latents from the prior, decoded.

    A .png file gets them in a grid, brighter where a pixel is likelier to be white; a .npz file
    gets the arrays z [n, D] and pixels [n, height, width]. The model is that of the run's newest
    checkpoint, with the parameters that were scored.

    \b
    Example:
      bench sample 3f9c2a -n 100 -o samples.png
    """
    check_output(output, force, ".png", ".npz")
    arrays = load_model(key, any_plugin).sample(n, f"{seed}/sample")
    if output.suffix.lower() == ".png":
        import torch

        from harness.training.figures import square

        content = square(torch.from_numpy(arrays["pixels"]))
    else:
        content = npz_bytes(arrays)
    check_output(output, force)
    write_out(content, output)
    say(f"{plural(n, 'image')} in {output}")


def load_model(prefix: str, any_plugin: bool) -> TrainedModel:
    """Load the model of the one run whose key begins so, from its newest checkpoint.

    Raises:
        UnknownName: there is no such run, or there are several.
        UsageError: it has no checkpoint that can be read, or its model makes no images.
    """
    from harness.base.errors import CheckpointError
    from harness.base.spec import RunSpec, Status
    from harness.execution.job import Options, permitted_source
    from harness.plan import registry
    from harness.training.model import stored

    with open_results("take a model from") as store:
        row = store.find_one(prefix)
        file = next(iter(store.checkpoints(row.key)), None)
        spec = RunSpec.from_plain(row.spec)
        source = partial(permitted_source, store, Options(any_plugin=any_plugin))
        method, task = registry.load(spec, source)
    if file is None:
        raise UsageError(
            f"Run {row.key} has no checkpoint: it is {row.status.value} at step {row.step:,}. "
            "Finish it with bench run."
        )
    try:
        model = stored(spec, method, task, file.path_in(Workspace.current()), file.sha256)
    except CheckpointError as err:
        raise UsageError(f"{err} See: bench doctor.") from err
    if file.step < row.steps and row.status is not Status.DONE:
        say(
            f"Run {row.key} is {row.status.value}: its parameters are those of step "
            f"{file.step:,} of {row.steps:,}.",
            err=True,
        )
    model.picture_size()  # raises where the task has no images
    return model


def check_output(output: Path, force: bool, *suffixes: str) -> None:
    """Refuse a file that cannot be written, or that exists where `force` is not given."""
    if suffixes and output.suffix.lower() not in suffixes:
        raise UsageError(f"{output} must end in {' or '.join(suffixes)}.")
    if output.is_dir():
        raise UsageError(f"{output} is a folder.")
    if output.exists() and not force:
        raise UsageError(
            f"{output} already exists. Choose another name, or replace it with --force."
        )
    if not output.parent.is_dir():
        raise UsageError(f"There is no folder {output.parent} to write {output.name} to.")


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Return the content of an .npz file."""
    import numpy as np

    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()
