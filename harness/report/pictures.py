"""Pictures that runs left behind: samples and reconstructions, of one seed for each row."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.selection import Group
from harness.base.workspace import Workspace
from harness.report.page import Picture, Section
from harness.report.view import View, columns
from harness.store import ArtifactFile, ResultStore
from harness.store.run_files import read_verified

NAMES = {"samples.png": "samples", "reconstructions.png": "reconstructions"}
MOST, MOST_BYTES = 40, 4_000_000
"""How many pictures a page holds, and their bytes together."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def section(view: View, workspace: Workspace) -> Section | None:
    """Nothing where no run left a picture."""
    pngs = _files(view)
    if not pngs:
        return None
    pictures, damaged, left, size = [], 0, 0, 0
    for caption, file in pngs:
        png = read_verified(workspace, file)
        if png is None or not png.startswith(SIGNATURE):
            damaged += 1
        elif len(pictures) == MOST or size + len(png) > MOST_BYTES:
            left += 1
        else:
            pictures.append(Picture(caption, png))
            size += len(png)
    about = [
        "Samples are drawn from the prior and decoded; reconstructions stand beside the images they are of. Each row's first finished seed."
    ]
    about += [f"Left out for the page's size: {left} of {len(pngs)} pictures."] if left else []
    about += (
        [f"Missing or damaged: {damaged} of {len(pngs)} pictures. See: bench doctor."]
        if damaged
        else []
    )
    return Section("pictures", "Pictures", about, pictures=pictures)


def _files(view: View) -> list[tuple[str, ArtifactFile]]:
    """What there is, with captions, by task and name."""
    found = []
    for column, groups in columns(
        group for group in view.sample.groups if _may_have(group)
    ).items():
        for group in groups:
            seed, files = _of(view.sample.store, group)
            found += [
                (f"{column}, {view.name(group)}: {NAMES[file.name]}, seed {seed}", file)
                for file in files
            ]
    return found


def _may_have(group: Group) -> bool:
    """Only images have a score on data that are held out, and pictures."""
    return not {"nll", "validation_elbo"}.isdisjoint(group.cell.description.headline)


def _of(store: ResultStore, group: Group) -> tuple[int, Sequence[ArtifactFile]]:
    run = next(iter(group.done), None)
    if run is None:
        return 0, []
    return run.seed, sorted(
        (file for file in store.artifacts(run.key) if file.name in NAMES),
        key=lambda file: file.name,
        reverse=True,
    )
