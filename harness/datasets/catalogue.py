"""The data sets that are known, and their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataFile:
    """A file of a data set: its name without `.gz`, the size and sha256 of its decompressed bytes,
    and whether any run needs it.
    """

    data_set: str
    name: str
    size: int
    sha256: str
    needed: bool = True

    @property
    def names(self) -> list[str]:
        """The names under which copies of it go around: compressed or not, and with a dot in place
        of a dash.
        """
        dotted = self.name.replace("-idx", ".idx")
        return [f"{self.name}.gz", self.name, f"{dotted}.gz", dotted]


@dataclass(frozen=True)
class DataSet:
    """A data set: its files, the addresses that serve them as `NAME.gz`, the Debian package that
    holds them, with its folder, and the folder in which torchvision keeps them.
    """

    name: str
    title: str
    files: tuple[DataFile, ...]
    mirrors: tuple[str, ...]
    package: str | None = None
    package_folder: Path | None = None
    torchvision: str | None = None


def _mnist_like(name: str, *sums: str) -> tuple[DataFile, ...]:
    names = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
    sizes = (
        16 + 60_000 * 28 * 28,
        8 + 60_000,
        16 + 10_000 * 28 * 28,
        8 + 10_000,
    )  # the header, and a byte a pixel or label
    return tuple(
        DataFile(name, *one, needed="images" in one[0])
        for one in zip(names, sizes, sums, strict=True)
    )


KNOWN = {
    "mnist": DataSet(
        "mnist",
        "MNIST, handwritten digits, 28 x 28",
        _mnist_like(
            "mnist",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        torchvision="MNIST",
    ),
    "fashion": DataSet(
        "fashion",
        "Fashion-MNIST, pieces of clothing, 28 x 28",
        _mnist_like(
            "fashion",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        "dataset-fashion-mnist",
        Path("/usr/share/datasets/fashion-mnist"),
        "FashionMNIST",
    ),
}
