"""Handwritten digits of 28 x 28 pixels, as zeros and ones."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np

from tasks._idx import load_images
from tasks._images import PROTOCOLS, BinaryImages, flat_images
from tasks._nets import ConvNets

read = partial(load_images, "mnist")


class MNIST(BinaryImages, frozen=True):
    """Handwritten digits of 28 x 28 pixels, binarised, under the HVAE authors' nets.

    Source: LeCun, Bottou, Bengio & Haffner 1998; nets and protocols of arXiv:1805.11328 (`paper`) and of a 2020
    re-implementation (`report`: 10,000 training and 1,000 test images, white above one half, 40 epochs).
    """

    name: ClassVar[str] = "mnist"
    source: ClassVar[str] = "http://yann.lecun.com/exdb/mnist/"
    default_protocol: ClassVar[str] = "report"
    protocols: ClassVar[dict[str, dict[str, Any]]] = PROTOCOLS

    def grey(self) -> tuple[np.ndarray, np.ndarray]:
        """[60000, 784] and [10000, 784]."""
        return flat_images(read)

    @property
    def nets(self) -> ConvNets:
        """Three convolutions, three transposed ones."""
        return ConvNets(self.latent)
