"""Pieces of clothing of 28 x 28 pixels, as zeros and ones."""

from __future__ import annotations

from typing import ClassVar

from ._images28 import Images28


class Fashion(Images28, frozen=True):
    """Pieces of clothing of 28 x 28 pixels, binarised, under the HVAE authors' nets and protocols.

    Source: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747; nets of arXiv:1805.11328.
    """

    name: ClassVar[str] = "fashion"
    source: ClassVar[str] = "arXiv:1708.07747"
