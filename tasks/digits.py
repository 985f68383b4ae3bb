"""Eight by eight handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.datasets import load_digits

from harness.api import Field

from ._idx import Split
from ._images import BinaryImages
from ._nets import DenseNets

N_SEEN = 1_497  # of 1,797: the rest is for tests
BRIGHTEST = 16


@cache
def images() -> np.ndarray:
    """All of them, uint8 [n, 64], 0 to 255."""
    pixels, _ = load_digits(return_X_y=True)
    return np.round(np.asarray(pixels) * (255 / BRIGHTEST)).astype(np.uint8)


class Digits(BinaryImages, frozen=True):
    """Handwritten digits of 8 x 8 pixels, white where they are brighter than half; nets with one
    dense hidden layer.

    Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits (UCI), its test part,
    as scikit-learn ships it.
    """

    name: ClassVar[str] = "digits"
    source: ClassVar[str] = "https://doi.org/10.24432/C50P49"
    default_protocol: ClassVar[str] = "standard"
    protocols: ClassVar[dict[str, dict[str, Any]]] = {
        "standard": {
            "steps": 4_000,
            "batch_size": 128,
            "shuffle": True,
            "lr": 1e-3,
            "dtype": "float32",
            "eval_particles": 1_000,
        },
        "smoke": {
            "steps": 100,
            "batch_size": 128,
            "shuffle": True,
            "lr": 5e-3,
            "dtype": "float32",
            "eval_particles": 50,
        },
    }

    binarisation: Literal["dynamic", "threshold", "fixed"] = Field(
        "threshold", description="how grey pixels become zeros and ones"
    )
    latent: int = Field(16, ge=1, description="latent dimensions")
    n_train: int = Field(1_297, ge=1, description="images to learn from")
    n_validation: int = Field(
        200, ge=1, description="images after those, for early stopping and tuning"
    )
    n_test: int = Field(300, ge=1, description="images to score")

    def grey(self, split: Split) -> np.ndarray:
        """[1497, 64] or [300, 64]."""
        return images()[:N_SEEN] if split == "train" else images()[N_SEEN:]

    @property
    def nets(self) -> DenseNets:
        """Dense layers of 128."""
        return DenseNets(64, self.latent, 128)
