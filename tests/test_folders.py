"""What must survive a power loss is synced, and so is the name of every new folder on the way to
it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.base.files import write_atomically
from harness.base.workspace import Workspace
from harness.cli._output import write_out


@pytest.fixture
def synced(monkeypatch):
    """The paths that were synced, in order."""
    paths, sync = [], os.fsync

    def noted(descriptor):
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


def test_each_new_folder_is_synced_into_its_parent_before_a_file_in_it_is_named(tmp_path, synced):
    target = tmp_path / "home" / "checkpoints" / "0123" / "step-1.safetensors"
    write_atomically(target, b"state")
    folders = [str(tmp_path), str(tmp_path / "home"), str(tmp_path / "home" / "checkpoints")]
    assert sorted(path for path in synced[:-2]) == folders
    assert synced[-1] == str(target.parent)
    write_atomically(target, b"another")
    assert [Path(path).parent for path in synced[5:]] == [
        target.parent,
        target.parent.parent,
    ]  # nothing is new: the file, and its folder


def test_a_new_workspace_is_synced_into_its_parent(tmp_path, synced):
    Workspace(tmp_path / "a" / "b").prepare()
    assert set(synced) == {str(tmp_path), str(tmp_path / "a")}


def test_a_page_in_a_new_folder_is_synced_with_it(tmp_path, synced):
    write_out(b"page", tmp_path / "figures" / "new" / "report.html")
    assert {str(tmp_path), str(tmp_path / "figures"), str(tmp_path / "figures" / "new")} <= set(
        synced
    )
