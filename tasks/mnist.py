"""Handwritten digits of 28 x 28 pixels, as zeros and ones."""

from __future__ import annotations

from typing import ClassVar

from ._images28 import Images28


class MNIST(Images28, frozen=True):
    """Handwritten digits of 28 x 28 pixels, binarised, under the HVAE authors' nets and protocols.

    Source: LeCun, Bottou, Bengio & Haffner 1998; nets of arXiv:1805.11328.
    """

    name: ClassVar[str] = "mnist"
    source: ClassVar[str] = "http://yann.lecun.com/exdb/mnist/"
