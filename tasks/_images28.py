"""Images of 28 x 28 pixels in IDX files: what mnist and fashion share."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ._idx import Split, load_images
from ._images import BinaryImages
from ._nets import ConvNets

FEW = {
    "batch_size": 256,
    "shuffle": True,
    "lr": 1e-3,
    "dtype": "float32",
    "task.binarisation": "threshold",
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "report": FEW
    | {
        "steps": 1_600,
        "eval_particles": 100,
        "validate_every": 40,
        "task.n_train": 10_000,
        "task.n_validation": 1_000,
        "task.n_test": 1_000,
    },
    "paper": {
        "steps": 1_000_000,
        "batch_size": 100,
        "shuffle": True,
        "optimiser": "adamax",
        "lr": 5e-4,
        "dtype": "float32",
        "eval_particles": 1_000,
        "validate_every": 500,
        "patience": 100,
    },
    "smoke": FEW
    | {
        "steps": 10,
        "batch_size": 64,
        "eval_particles": 10,
        "task.n_train": 1_000,
        "task.n_validation": 100,
        "task.n_test": 50,
    },
}
"""1,600 steps are 40 epochs of 40 batches, the last of 16; a million are 2,000 epochs of 500."""


class Images28(BinaryImages, frozen=True):
    """Binary images under the HVAE authors' nets, with the protocols of arXiv:1805.11328 (`paper`)
    and of a 2020 re-implementation.

    The latter's `report`: 10,000 training and 1,000 test images, white above one half, 40 epochs.
    """

    default_protocol: ClassVar[str] = "report"
    protocols: ClassVar[dict[str, dict[str, Any]]] = PROTOCOLS

    def grey(self, split: Split) -> np.ndarray:
        """[60000, 784] or [10000, 784]."""
        images = load_images(self.name, split)
        return images.reshape(len(images), -1)

    @property
    def nets(self) -> ConvNets:
        """Three convolutions, three transposed ones."""
        return ConvNets(self.latent)
