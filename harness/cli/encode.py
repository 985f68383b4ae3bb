"""`bench encode`: find the latents of images with the model of a stored run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.base.errors import UsageError
from harness.base.text import plural
from harness.cli._output import say, write_out
from harness.cli.sample import check_output, load_model, npz_bytes, output_options

if TYPE_CHECKING:
    import numpy as np

    from harness.training.model import TrainedModel

ARRAY_NAMES = ("images", "x")  # of several in an .npz file


@click.command()
@click.argument("key", metavar="KEY")
@click.argument("path", metavar="INPUT", type=click.Path(path_type=Path))
@output_options("latents.npz")
@click.option(
    "-n",
    "--particles",
    default=10,
    type=click.IntRange(1, 100_000),
    help="Particles for each image.",
)
def encode(
    key: str, path: Path, output: Path, particles: int, force: bool, any_plugin: bool
) -> None:
    """Find the latents of images with a trained model.

    INPUT is an IDX file of images, gzipped or not, or a .npy or .npz file with an array [n, height,
    width] or [n, pixels]: uint8 from 0 to 255, or floating-point numbers from 0 to 1. Grey images
    become zeros and ones as the task's test images do.

    The .npz file gets mean and scale [n, D] of the base, z [S, n, D] and log_w [S, n] of S
    particles drawn by the method, and elbo [n], the mean of log_w, in nats.

    \b
    Example:
      bench encode 3f9c2a digits.npy -o latents.npz
    """
    check_output(output, force, ".npz")
    model = load_model(key, any_plugin)
    images = read_images(model, path)
    content = npz_bytes(model.encode(images, particles))
    check_output(output, force)
    write_out(content, output)
    say(f"Latents of {plural(len(images), 'image')} in {output}")


def read_images(model: TrainedModel, path: Path) -> np.ndarray:
    """Read grey images of the model's size from a file, uint8 [n, height, width]."""
    is_numpy = path.suffix.lower() in (".npy", ".npz")
    array = _read_numpy(path) if is_numpy else model.task.read_images(path)
    return _as_uint8(array, path, model.picture_size())


def _read_numpy(path: Path) -> np.ndarray:
    import zipfile

    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = list(loaded.files)
            known = names if len(names) == 1 else [name for name in ARRAY_NAMES if name in names]
            if not known:
                raise UsageError(
                    f"{path} holds the arrays {', '.join(names) or 'none'}. "
                    "Name the array of images 'images'."
                )
            return loaded[known[0]]
    except OSError as err:
        raise UsageError(f"{path} cannot be read: {err.strerror or err}.") from err
    except (ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as err:
        raise UsageError(
            f"{path} is damaged, or was not written by numpy.save or numpy.savez."
        ) from err


def _as_uint8(images: np.ndarray, path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return images as uint8 [n, height, width], 0 to 255."""
    import numpy as np

    height, width = size
    if not len(images) or images.shape[1:] not in (size, (height * width,)):
        shape = " x ".join(map(str, images.shape))
        raise UsageError(
            f"{path} holds an array of {shape}; this model needs n x {height} x {width}."
        )
    images = images.reshape(len(images), height, width)
    if images.dtype == np.bool:
        return images * np.uint8(255)
    if images.dtype == np.uint8 and images.max() != 1:  # zeros and ones would both be black
        return images
    if images.dtype.kind == "f" and images.min() >= 0 and images.max() <= 1:
        # one half is not above one half
        return np.ceil(images.astype(np.float64) * 255 - 0.5).astype(np.uint8)
    ends = f" from {images.min():g} to {images.max():g}" if images.dtype.kind in "fiu" else ""
    raise UsageError(
        f"{path} has pixels of type {images.dtype}{ends}; uint8 from 0 to 255 and floats from 0 to "
        "1, also for zeros and ones, are allowed."
    )
