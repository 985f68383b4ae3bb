"""`bench reconstruct`: images through the latents of a stored run's model, and back."""

from __future__ import annotations

from pathlib import Path

import click

from harness.base.text import plural
from harness.cli._output import say, write_out
from harness.cli.encode import read_images
from harness.cli.sample import check_output, load_model, npz_bytes, output_options


@click.command()
@click.argument("key", metavar="KEY")
@click.argument("path", metavar="[INPUT]", required=False, type=click.Path(path_type=Path))
@click.option("-n", "n", default=16, type=click.IntRange(1, 100_000), help="How many images.")
@output_options("reconstructions.png")
@click.option("--seed", default=0, type=click.IntRange(0), help="Which draws.")
def reconstruct(
    key: str, path: Path | None, n: int, output: Path, seed: int, force: bool, any_plugin: bool
) -> None:
    """Reconstruct images with a trained model: a latent for each, drawn by the method, decoded.

    The images are the first test images of the run's task, or those of INPUT: a file as `bench
    encode` takes it. Each latent is one of as many particles as training drew, drawn by its weight.

    A .png file gets each image above its reconstruction; a .npz file gets images and pixels [n,
    height, width] and z [n, D].

    \b
    Examples:
      bench reconstruct 3f9c2a
      bench reconstruct 3f9c2a digits.npy -n 100 -o reconstructions.npz
    """
    check_output(output, force, ".png", ".npz")
    model = load_model(key, any_plugin)
    import torch

    from harness.training import figures
    from harness.training.loop import load_data

    if path is None:
        data = load_data(model.task, [model.spec.seed], getattr(torch, model.spec.dtype))
        batches = figures.test_batches_of(model, data)
    else:
        images = torch.tensor(read_images(model, path)[:n])
        batches = (model.task.observe(part) for part in images.split(figures.N_IMAGES))
    originals, z, _ = figures.reconstruct(model, batches, n, f"{seed}/reconstruct")
    pixels = model.decode(z)
    if output.suffix.lower() == ".png":
        content = figures.image_pairs(originals, pixels)
    else:
        arrays = {"images": originals, "z": z, "pixels": pixels}
        content = npz_bytes({name: tensor.numpy() for name, tensor in arrays.items()})
    check_output(output, force)
    write_out(content, output)
    say(f"{plural(len(z), 'image')} with reconstructions in {output}")
