"""`bench sample` and `bench encode`: use the model of a stored run."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.base.errors import UnknownName, UsageError
from harness.base.text import plural
from harness.base.workspace import Workspace
from harness.cli._options import open_store, plugins_option
from harness.cli._output import say

if TYPE_CHECKING:
    import numpy as np

    from harness.store import ResultStore, RunRow
    from harness.training.model import Model

Command = TypeVar("Command", bound=Callable[..., Any])
SHOWN = ("images", "x")
"""Names of the array that is read where an .npz file has several."""


def output_options(default: str) -> Callable[[Command], Command]:
    """`-o`, `--force` and `--allow-plugins`."""

    def add(command: Command) -> Command:
        output = click.option(
            "-o",
            "--output",
            default=default,
            show_default=True,
            metavar="FILE",
            type=click.Path(path_type=Path),
        )
        return output(
            click.option("--force", is_flag=True, help="Replace the file if it is there.")(
                plugins_option(command)
            )
        )

    return add


@click.command()
@click.argument("key", metavar="KEY")
@click.option(
    "-n",
    "n",
    default=64,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="How many pictures.",
)
@output_options("samples.png")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Which draws.")
def sample(key: str, n: int, output: Path, seed: int, force: bool, allow_plugins: bool) -> None:
    """Draw pictures from a trained model: latents from the prior, decoded.

    A .png file gets them in a grid, brighter where a pixel is likelier to be white; a .npz file
    gets the arrays z [n, D] and pixels [n, height, width]. The newest checkpoint of the run is
    used, and of that the parameters that were scored.

    \b
    Example:
      bench sample 3f9c2a -n 100 -o samples.png
    """
    _require_suffix(output, ".png", ".npz")
    _require_free(output, force)
    model = _model(key, allow_plugins)
    arrays = model.sample(n, f"{seed}/sample")
    content = _png(arrays["pixels"]) if output.suffix.lower() == ".png" else _npz(arrays)
    _write(output, content, force)
    say(f"{plural(n, 'picture')} in {output}")


@click.command()
@click.argument("key", metavar="KEY")
@click.argument("images", metavar="INPUT", type=click.Path(path_type=Path))
@output_options("latents.npz")
@click.option(
    "-n",
    "--particles",
    default=10,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="Particles for each image.",
)
def encode(
    key: str, images: Path, output: Path, particles: int, force: bool, allow_plugins: bool
) -> None:
    """Find the latents of images with a trained model.

    INPUT is an IDX file of images, gzipped or not, or a .npy or .npz file with an array [n, height,
    width] or [n, pixels]: uint8 from 0 to 255, or floating-point numbers from 0 to 1. Grey images
    become zeros and ones as the task's test images do.

    The .npz file gets mean and scale [n, D] of the base, z [S, n, D] and log_w [S, n] of S
    particles drawn by the method, and elbo [n], the mean of log_w; nats.

    \b
    Example:
      bench encode 3f9c2a digits.npy -o latents.npz
    """
    _require_suffix(output, ".npz")
    _require_free(output, force)
    model = _model(key, allow_plugins)
    size = model.picture_size()
    grey = _grey(_read(images, model), images, size)
    _write(output, _npz(model.encode(grey, particles)), force)
    say(f"Latents of {plural(len(grey), 'image')} in {output}")


def _model(prefix: str, allow_plugins: bool) -> Model:
    """The model of the one run whose key begins so."""
    from harness.base.errors import CheckpointError
    from harness.base.spec import RunSpec
    from harness.execution.job import Options, permitted_source
    from harness.plan import registry
    from harness.training.model import stored

    workspace = Workspace.current()
    store = open_store(workspace)
    if store is None:
        raise UnknownName("run", prefix, [], "bench list runs")
    with store:
        row = _one_run(store, prefix)
        file = next(iter(store.checkpoints(row.key)), None)
        spec = RunSpec.from_plain(row.spec)
        method, task = registry.load(
            spec, partial(permitted_source, store, Options(any_plugin=allow_plugins))
        )
    if file is None:
        raise UsageError(
            f"Run {row.key} has no checkpoint: it is {row.status.value} at step {row.step:,}. Finish it with bench run."
        )
    try:
        model = stored(spec, method, task, file.path_in(workspace), file.sha256)
    except CheckpointError as err:
        raise UsageError(f"{err} See: bench doctor.") from err
    if file.step < row.steps and row.status.value != "done":
        say(
            f"Run {row.key} is {row.status.value}: its parameters are those of step {file.step:,} of {row.steps:,}.",
            err=True,
        )
    model.picture_size()  # says so where there are no pictures
    return model


def _one_run(store: ResultStore, prefix: str) -> RunRow:
    found = store.find(prefix)
    if len(found) != 1:
        raise UnknownName(
            "run of that key alone" if found else "run",
            prefix,
            [row.key for row in found],
            "bench list runs",
        )
    return found[0]


def _read(path: Path, model: Model) -> np.ndarray:
    """The array of images in a file."""
    return (
        _read_numpy(path)
        if path.suffix.lower() in (".npy", ".npz")
        else model.task.read_images(path)
    )


def _read_numpy(path: Path) -> np.ndarray:
    import zipfile

    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return loaded[_name_of_images(path, loaded.files)]
    except OSError as err:
        raise UsageError(f"{path} cannot be read: {err.strerror or err}.") from err
    except (ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as err:
        raise UsageError(
            f"{path} is damaged, or is no file of numbers written by numpy.save or numpy.savez."
        ) from err


def _name_of_images(path: Path, names: Sequence[str]) -> str:
    chosen = list(names) if len(names) == 1 else [name for name in SHOWN if name in names]
    if not chosen:
        raise UsageError(
            f"{path} holds the arrays {', '.join(names) or 'none'}. Call that of the images 'images'."
        )
    return chosen[0]


def _grey(images: np.ndarray, path: Path, size: tuple[int, int]) -> np.ndarray:
    """Images as uint8 [n, height, width], 0 to 255.

    Raises:
        UsageError: they have another size, another kind of number, or pixels that are not grey
            values.
    """
    import numpy as np

    height, width = size
    if images.ndim not in (2, 3) or images.shape[1:] not in (size, (height * width,)):
        shape = " x ".join(map(str, images.shape)) or "a single number"
        raise UsageError(
            f"{path} holds an array of {shape}; this model needs n x {height} x {width}."
        )
    if len(images) == 0:
        raise UsageError(f"{path} holds no image.")
    images = images.reshape(len(images), height, width)
    if images.dtype == np.bool:
        return images * np.uint8(255)
    if images.dtype == np.uint8:
        if images.max() == 1:
            raise UsageError(
                f"{path} holds whole numbers 0 and 1, which of 255 are all black. Give zeros and ones as floats."
            )
        return images
    if images.dtype.kind != "f":
        raise UsageError(
            f"{path} holds numbers of type {images.dtype}; uint8 (0 to 255) and floats (0 to 1) are allowed."
        )
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # also where one is not a number
        raise UsageError(
            f"{path} has pixels from {low:g} to {high:g}; floats must be in 0 to 1. Divide them, or give uint8 (0 to 255)."
        )
    return np.ceil(images.astype(np.float64) * 255 - 0.5).astype(
        np.uint8
    )  # one half is not above one half


def _png(pixels: np.ndarray) -> bytes:
    import torch

    from harness.training.figures import square

    return square(torch.from_numpy(pixels))


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _require_suffix(output: Path, *allowed: str) -> None:
    if output.suffix.lower() not in allowed:
        raise UsageError(f"{output} must end in {' or '.join(allowed)}.")


def _require_free(output: Path, force: bool) -> None:
    if output.is_dir():
        raise UsageError(f"{output} is a folder.")
    if output.exists() and not force:
        raise UsageError(
            f"{output} exists already. Choose another name, or replace it with --force."
        )
    if not output.parent.is_dir():
        raise UsageError(f"There is no folder {output.parent} to write {output.name} to.")


def _write(output: Path, content: bytes, force: bool) -> None:
    from harness.base.files import write_atomically

    _require_free(output, force)
    try:
        write_atomically(output, content)
    except OSError as err:
        raise UsageError(f"Cannot write {output}: {err.strerror or err}.") from err
