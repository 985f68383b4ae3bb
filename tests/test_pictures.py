"""Pictures of finished runs, and what a finished model is used for."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import math
import os
import shutil
import struct
import subprocess
import sys
from contextlib import contextmanager

import filled_store
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import NoMirror, json_lines
from PIL import Image
from runs import ROOT, copies, finished, opened, prepared, start

from harness.base.files import write_atomically
from harness.base.spec import RunSpec
from harness.base.workspace import Workspace
from harness.cli import main
from harness.execution.job import OutOfTime
from harness.numerics.noise import Noise
from harness.plan import registry
from harness.tasks.digits import Digits
from harness.training import checkpoint, figures
from harness.training.curve_figures import learning_curves
from harness.training.model import stored

DIGITS = (
    "-t",
    "digits",
    "--protocol",
    "smoke",
    "--set",
    "steps=20",
    "--set",
    "eval_particles=2",
    "--set",
    "task.n_test=20",
)
FOLLOWED = ["interpolation.png", "path.png", "reconstructions.png", "samples.png"]
PLAIN = [name for name in FOLLOWED if name != "path.png"]
HVAE = "hvae[n_leapfrog=3]"


pytestmark = pytest.mark.usefixtures("no_mirror")


def call(*arguments):
    """The command line, in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with hvae and vb on digits and vb on a Gaussian; and their keys."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_HOME", str(home))
        patch.setattr("harness.tracking.Mirror.start", NoMirror.start)
        torch.set_num_threads(1)
        lines = json_lines(call("run", "-m", HVAE, "-m", "vb", *DIGITS, "--json"))
        lines += json_lines(
            call("run", "-m", "vb", "-t", "gaussian-2", "--protocol", "smoke", "--json")
        )
    assert [line["status"] for line in lines] == ["done"] * 3
    return home, [line["key"] for line in lines]


@pytest.fixture
def copied(made, workspace, monkeypatch):
    """A copy of it that is the current folder, and the keys."""
    shutil.copytree(made[0], workspace / "home")
    monkeypatch.chdir(workspace / "home")
    return workspace / "home", made[1]


@contextmanager
def stopped_after(steps):
    """Runs are out of time after so many steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "harness.execution.job.Job.ending",
            lambda job, step: OutOfTime("its time is over") if step == steps else None,
        )
        yield


def arrays(path):
    """What an .npz file holds."""
    with np.load(path) as file:
        return dict(file)


def files(home, key):
    """The bytes of a run's pictures by name."""
    return {
        path.name: path.read_bytes() for path in sorted((home / "pictures").glob(f"*/{key}.*/*"))
    }


def picture(home, key, name):
    """Where a picture of a run lies."""
    return next((home / "pictures").glob(f"*/{key}.*/{name}"))


def refused(*arguments):
    """The one line with which a command is refused."""
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("bench: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_finished_run_has_its_pictures_on_record(made):
    home, (hvae, vb, gaussian) = made
    assert (list(files(home, hvae)), list(files(home, vb)), files(home, gaussian)) == (
        FOLLOWED,
        PLAIN,
        {},
    )
    with opened(home) as store:
        for file in store.artifacts(hvae):
            content = file.path_in(Workspace(home)).read_bytes()
            assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    sizes = {
        name: Image.open(io.BytesIO(content)).size for name, content in files(home, hvae).items()
    }
    wide, high = (lambda n: n * 60 - 4 + 20), (lambda n: n * 60 - 4 + 38)
    assert sizes["samples.png"] == (wide(8), wide(8))
    assert sizes["interpolation.png"] == (wide(8), high(8))
    assert sizes["path.png"] == (wide(1 + 4), high(6))
    assert sizes["reconstructions.png"][1] == wide(2)
    assert Image.open(io.BytesIO(files(home, hvae)["samples.png"])).info == {}


def test_the_first_row_of_the_reconstructions_are_the_test_images(made):
    home, (hvae, *_) = made
    sheet = np.asarray(Image.open(io.BytesIO(files(home, hvae)["reconstructions.png"])))
    left = sheet.shape[1] - 10 - 16 * 60 + 4
    shown = np.stack(
        [sheet[10:66:7, left + 60 * place : left + 60 * place + 56 : 7] for place in range(16)]
    )
    assert np.array_equal(
        shown == 255, Digits().load(Noise(["0/data"])).test["x"][:16].reshape(16, 8, 8) == 1
    )


def test_the_same_run_elsewhere_and_one_that_was_stopped_make_the_same_bytes(
    made, workspace, monkeypatch
):
    home, (hvae, *_) = made
    with stopped_after(steps=10):
        (line,) = json_lines(call("run", "-m", HVAE, *DIGITS, "--json"))
    assert (line["status"], line["step"], files(workspace, hvae)) == ("timeout", 10, {})
    (line,) = json_lines(call("run", "-m", HVAE, *DIGITS, "--json"))
    assert line["outcome"] == "resumed"
    assert files(workspace, hvae) == files(home, hvae)


def test_what_keeps_pictures_from_being_made_never_touches_the_result(workspace, monkeypatch):
    write = write_atomically

    def full(path, content):
        if path.name == "reconstructions.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr("harness.execution.job.write_atomically", full)
    result = call("run", "-m", "vb", *DIGITS, "--json")
    (line,) = json_lines(result)
    assert (line["status"], list(files(workspace, line["key"]))) == ("done", ["samples.png"])
    assert (
        f"Run {line['key']} goes without some of its pictures: No space left on device. Its result "
        "is complete." in result.stderr
    )
    with opened(workspace) as store:
        assert [file.name for file in store.artifacts(line["key"])] == ["samples.png"]


def test_rm_and_rerun_remove_pictures(copied):
    home, (hvae, vb, _) = copied
    assert call("rm", vb, "--yes").exit_code == 0
    assert files(home, vb) == {}
    old = files(home, hvae)
    picture(home, hvae, "path.png").write_bytes(b"old")
    with stopped_after(steps=1):
        assert (
            json_lines(call("run", "-m", HVAE, *DIGITS, "--rerun", "--json"))[0]["status"]
            == "timeout"
        )
    assert files(home, hvae) == old | {"path.png": b"old"}  # until there are new ones
    assert json_lines(call("run", "-m", HVAE, *DIGITS, "--json"))[0]["status"] == "done"
    assert files(home, hvae) == old


KILLED = """
import os, signal, sys
from harness.execution import job
from harness.cli import main
job._store = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_a_death_between_pictures_and_row_leaves_what_doctor_finds(made, workspace):
    home, (_, vb, _) = made
    prepared(workspace)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "run", "-m", "vb", *DIGITS],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -9
    assert list(files(workspace, vb)) == PLAIN
    found = [line["fault"] for line in json_lines(call("doctor", "--json"))]
    with opened(workspace) as store:
        folder = f"pictures/{store.database}/{vb}.1"
    assert [f"{folder}/{name} belongs to no picture on record" in found for name in PLAIN] == [
        True
    ] * 3
    call("doctor", "--repair")
    assert files(workspace, vb) == {}
    assert json_lines(call("run", "-m", "vb", *DIGITS, "--json"))[0]["status"] == "done"
    assert files(workspace, vb) == files(home, vb)
    assert not any("pictures/" in line["fault"] for line in json_lines(call("doctor", "--json")))


@pytest.mark.mirror
def test_mlflow_shows_them(tmp_path):
    home = prepared(tmp_path / "home")
    (line,) = finished(start(home, ["-m", "vb", *DIGITS]))
    ((*_, shown, _),) = copies(home).values()
    assert {name: content for name, content in shown.items() if name.startswith("pictures/")} == {
        f"pictures/{name}": content for name, content in files(home, line["key"]).items()
    }
    assert "curves.png" in shown


def test_show_copies_them_out(copied):
    home, (hvae, _, gaussian) = copied
    result = call("show", hvae, "--pictures", "out/here")
    assert (result.exit_code, result.stdout.count("\n")) == (0, 5)
    out = {path.name: path.read_bytes() for path in (home / "out" / "here").glob("*")}
    assert out.pop("curves.png").startswith(b"\x89PNG")
    assert out == files(home, hvae)
    assert call("show", hvae, "--pictures", "out/here").exit_code == 0
    (home / "out" / "here" / "path.png").write_bytes(b"another")
    assert "already exists" in refused("show", hvae, "--pictures", "out/here")
    assert (
        call("show", gaussian, "--pictures", "out/gaussian").stdout == "out/gaussian/curves.png\n"
    )
    assert "No run named 'hvae'" in refused("show", "hvae", "--pictures", "out")
    picture(home, hvae, "path.png").write_bytes(b"")
    result = call("show", hvae, "--pictures", "again")
    assert (
        result.exit_code,
        "path.png is missing" in result.stderr or "path.png is damaged" in result.stderr,
    ) == (0, True)
    assert not (home / "again" / "path.png").exists()


def test_a_run_without_pictures_is_refused(workspace):
    with stopped_after(steps=4):
        (line,) = json_lines(call("run", "-m", "vb", *DIGITS, "--json"))
    result = call("sample", line["key"])
    assert f"is timeout: its parameters are those of step {line['step']} of 20" in result.stderr
    with opened(workspace) as store:
        store.reset([line["key"]])
    assert "has no figures: it is queued at step 0" in refused(
        "show", line["key"], "--pictures", "out"
    )
    assert not (workspace / "out").exists()
    assert "has no checkpoint: it is queued at step 0" in refused(
        "encode", line["key"], "images.npy"
    )


def test_sample_gives_a_grid_or_arrays(copied):
    home, (hvae, *_) = copied
    assert call("sample", hvae[:6]).stdout == "64 images in samples.png\n"
    assert Image.open(io.BytesIO((home / "samples.png").read_bytes())).size == (496, 496)
    assert call("sample", hvae, "-n", 5, "-o", "five.npz").exit_code == 0
    assert call("sample", hvae, "-n", 7, "-o", "seven.npz").exit_code == 0
    assert call("sample", hvae, "-n", 7, "-o", "other.npz", "--seed", 1).exit_code == 0
    five, seven, other = (arrays(home / f"{name}.npz") for name in ("five", "seven", "other"))
    assert (five["z"].shape, five["pixels"].shape) == ((5, 16), (5, 8, 8))
    assert np.array_equal(five["z"], seven["z"][:5])
    assert not np.array_equal(seven["z"], other["z"])
    assert (five["pixels"].min() >= 0, five["pixels"].max() <= 1) == (True, True)
    assert "already exists" in refused("sample", hvae, "-o", "five.npz")
    before = (home / "seven.npz").read_bytes()
    assert call("sample", hvae, "-n", 7, "-o", "seven.npz", "--force").exit_code == 0
    assert (home / "seven.npz").read_bytes() == before


def test_sample_uses_the_best_parameters_on_validation_data(workspace):
    few = ["task.n_train=40", "task.n_validation=40"]  # it learns them by heart
    values = ["steps=120", "lr=0.02", "batch_size=40", "validate_every=10", *few]
    (line,) = json_lines(
        call(
            "run",
            "-m",
            "vb",
            *DIGITS,
            *(part for value in values for part in ("--set", value)),
            "--json",
        )
    )
    with opened(workspace) as store:
        row, file = store.rows([line["key"]])[line["key"]], store.checkpoints(line["key"])[0]
    spec = RunSpec.from_plain(row.spec)
    tensors, _ = checkpoint.read(file.path_in(Workspace(workspace)), file.sha256)
    method, task = registry.load(spec, None)
    model = stored(spec, method, task, file.path_in(Workspace(workspace)), file.sha256)
    last = {name: tensors[f"params.task.{name}"] for name in model.theta}
    assert any(not torch.equal(last[name], leaf[0]) for name, leaf in model.theta.items())
    whole = torch.cat([leaf.flatten() for leaf in model.theta.values()])
    assert torch.equal(whole, tensors["best"][: len(whole)])
    assert list(model.theta) == list(task.init("learned", Noise(["0/init/task"])))
    again = torch.from_numpy(model.sample(64, f"{spec.seed}/pictures/samples")["pixels"])
    assert figures.square(again) == files(workspace, line["key"])["samples.png"]


def idx(array):
    """An IDX file's bytes."""
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def test_encode_takes_every_kind_of_file_and_gives_the_same(copied):
    home, (hvae, *_) = copied
    grey = Digits().grey("test")[:23].reshape(-1, 8, 8)
    (home / "a.idx").write_bytes(idx(grey))
    (home / "b.gz").write_bytes(gzip.compress(idx(grey)))
    np.save(home / "c.npy", grey)
    np.savez(home / "d.npz", images=grey.reshape(-1, 64) / 255, labels=np.arange(3))
    np.save(home / "e.npy", grey > 127)
    found = []
    for name in ("a.idx", "b.gz", "c.npy", "d.npz", "e.npy"):
        result = call("encode", hvae, name, "-o", f"{name}.out.npz", "-n", 3)
        assert result.stdout == f"Latents of 23 images in {name}.out.npz\n", result.output
        found.append((home / f"{name}.out.npz").read_bytes())
    assert len(set(found)) == 1
    got = arrays(home / "a.idx.out.npz")
    shapes = {
        "mean": (23, 16),
        "scale": (23, 16),
        "z": (3, 23, 16),
        "log_w": (3, 23),
        "elbo": (23,),
    }
    assert {name: array.shape for name, array in got.items()} == shapes
    assert np.array_equal(got["elbo"], got["log_w"].mean(0))
    np.save(home / "few.npy", grey[:4])
    assert call("encode", hvae, "few.npy", "-n", 60, "-o", "few.npz").exit_code == 0
    few = arrays(home / "few.npz")
    assert few["z"].shape == (60, 4, 16)
    assert np.allclose(few["mean"], got["mean"][:4], rtol=1e-5)


def test_reconstruct_takes_test_images_or_a_file(copied):
    home, (hvae, vb, gaussian) = copied
    said = call("reconstruct", hvae).stdout
    assert said == "16 images with reconstructions in reconstructions.png\n"
    sizes = Image.open(io.BytesIO((home / "reconstructions.png").read_bytes())).size
    assert sizes == Image.open(io.BytesIO(files(home, hvae)["reconstructions.png"])).size
    assert call("reconstruct", vb, "-n", 20, "-o", "test.npz").exit_code == 0
    test = arrays(home / "test.npz")
    assert {name: array.shape for name, array in test.items()} == {
        "images": (20, 8, 8), "z": (20, 16), "pixels": (20, 8, 8),
    }  # fmt: skip
    grey = Digits().grey("test")[:23].reshape(-1, 8, 8)
    np.save(home / "own.npy", grey)
    assert call("reconstruct", vb, "own.npy", "-n", 20, "-o", "own.npz").exit_code == 0
    own = arrays(home / "own.npz")
    assert np.array_equal(own["images"], test["images"])  # the first test images are these
    assert np.allclose(own["z"], test["z"], rtol=1e-4, atol=1e-5)  # with noise of their own each
    with opened(home) as store:
        spec, file = RunSpec.from_plain(store.rows([vb])[vb].spec), store.checkpoints(vb)[0]
    model = stored(spec, *registry.load(spec, None), file.path_in(Workspace(home)), file.sha256)
    decoded = model.decode(torch.from_numpy(own["z"]))
    assert np.allclose(own["pixels"], decoded.numpy(), rtol=1e-6)
    assert call("reconstruct", vb, "own.npy", "-n", 20, "-o", "two-rows.png").exit_code == 0
    two_rows = Image.open(io.BytesIO((home / "two-rows.png").read_bytes()))
    assert two_rows.size[1] > 1.9 * sizes[1] - 20
    np.save(home / "bad.npy", np.zeros((2, 3, 3)))
    assert "no decoder" in refused("reconstruct", gaussian, "-o", "new.png")
    assert "already exists" in refused("reconstruct", vb, "-o", "own.npz")
    assert "needs n x 8 x 8" in refused("reconstruct", vb, "bad.npy", "-o", "new.png")
    assert not (home / "new.png").exists()


@pytest.mark.parametrize("how", ["threshold", "fixed", "dynamic"])
def test_test_images_are_observed_as_they_are_scored(how):
    task = Digits(binarisation=how)
    grey = torch.tensor(task.grey("test")[:20].reshape(-1, 8, 8))
    assert torch.equal(task.observe(grey)["x"], task.load(Noise(["0/data"])).test["x"][:20])


def test_the_weights_of_encoded_images_are_the_methods(made):
    home, (_, vb, _) = made
    with opened(home) as store:
        spec, file = RunSpec.from_plain(store.rows([vb])[vb].spec), store.checkpoints(vb)[0]
    model = stored(spec, *registry.load(spec, None), file.path_in(Workspace(home)), file.sha256)
    images = Digits().grey("test")[:3].reshape(-1, 8, 8)
    got = model.encode(images, 5)
    problem = model.task.problem(model.theta, model.task.observe(torch.tensor(images)), spec.base)
    z = torch.from_numpy(got["z"])
    expected = problem.log_joint(z) - problem.base.log_prob(z)
    assert np.allclose(got["log_w"], expected.detach().numpy(), rtol=1e-5)


def bad_inputs(home):
    """Files that are not images of this model, with what is said of each."""
    grey = Digits().grey("test")[:3].reshape(-1, 8, 8)
    (home / "labels.idx").write_bytes(idx(np.arange(9, dtype=np.uint8)))
    (home / "short.idx").write_bytes(idx(grey)[:-1])
    (home / "text.idx").write_text("not images")
    (home / "text.npy").write_text("not images")
    (home / "text.npz").write_text("not images")
    np.save(home / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(home / "names.npz", a=grey, b=grey)
    arrays = {
        "large.npy": (
            np.zeros((2, 28, 28), np.uint8),
            "holds an array of 2 x 28 x 28; this model needs n x 8 x 8",
        ),
        "one.npy": (np.zeros((8, 8), np.uint8), "holds an array of 8 x 8"),
        "none.npy": (np.zeros((0, 8, 8), np.uint8), "holds an array of 0 x 8 x 8"),
        "bright.npy": (
            grey * 1.0,
            "float64 from 0 to 255; uint8 from 0 to 255 and floats from 0 to 1",
        ),
        "dark.npy": (grey / 255 - 0.1, "float64 from -0.1"),
        "nan.npy": (np.full((1, 8, 8), np.nan), "float64 from nan"),
        "whole.npy": (grey.astype(np.int64), "has pixels of type int64"),
        "binary.npy": ((grey > 127).astype(np.uint8), "uint8 from 0 to 1; "),
        "words.npy": (np.full((1, 8, 8), "a"), "has pixels of type <U1;"),
    }
    for name, (array, _) in arrays.items():
        np.save(home / name, array)
    return {name: text for name, (_, text) in arrays.items()} | {
        "labels.idx": "holds labels (1 dimension), not images (3 dimensions)",
        "short.idx": "is too short",
        "text.idx": "is not an IDX file",
        "text.npy": "is damaged, or was not written by numpy.save",
        "text.npz": "is damaged, or was not written by numpy.save",
        "objects.npy": "is damaged, or was not written by numpy.save",
        "names.npz": "holds the arrays a, b",
        "nowhere.idx": "cannot be read: No such file",
        "nowhere.npy": "cannot be read: No such file",
    }


def test_bad_images_are_refused_in_one_line(copied):
    home, (_, vb, _) = copied
    for name, text in bad_inputs(home).items():
        assert text in refused("encode", vb, name), name
    assert not list(home.glob("latents*"))
    assert not list(home.glob(".*.tmp"))


def test_bad_models_and_outputs_are_refused_in_one_line(copied):
    home, (hvae, vb, gaussian) = copied
    np.save(home / "ok.npy", np.zeros((1, 8, 8), np.uint8))
    for command in (("sample", gaussian), ("encode", gaussian, "ok.npy")):
        assert "has no decoder" in refused(*command)
    assert "No run named 'ffffffff'" in refused("sample", "ffffffff")
    assert "must end in .png or .npz" in refused("sample", vb, "-o", "samples.jpg")
    assert "There is no folder nowhere" in refused("sample", vb, "-o", "nowhere/samples.png")
    (home / "folder.npz").mkdir()
    assert "is a folder" in refused("encode", vb, "ok.npy", "-o", "folder.npz", "--force")
    *_, file = sorted((home / "checkpoints").glob(f"*/{vb}.*/*"))
    file.write_bytes(file.read_bytes()[:-1])
    assert "is damaged" in refused("sample", vb)
    shutil.rmtree(next((home / "checkpoints").glob(f"*/{hvae}.*")))
    assert "Cannot read the checkpoint" in refused("encode", hvae, "ok.npy")
    assert not list(home.glob("samples*")) + list(home.glob("latents*"))


def test_an_output_that_cannot_be_written_leaves_nothing(copied, monkeypatch):
    home, (_, vb, _) = copied

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "Cannot write samples.png: No space left on device." in refused("sample", vb)
    assert not list(home.glob("*samples*")) + list(home.glob(".*"))


def test_a_grid_shows_each_number_as_a_square_of_its_grey():
    cells = np.array([0.0, 0.2, 1.0, np.nan]).reshape(1, 1, 2, 2)
    sheet = np.asarray(Image.open(io.BytesIO(figures.image_grid(torch.from_numpy(cells)))))
    assert sheet.shape == (76, 76)
    assert [sheet[10 + 14, 10 + 14], sheet[24, 52], sheet[52, 24], sheet[52, 52], sheet[5, 5]] == [
        0,
        51,
        255,
        0,
        255,
    ]


def test_a_particle_is_shown_as_often_as_it_weighs():
    log_w = torch.tensor([0.25, 0.75], dtype=torch.float64).log()[:, None].expand(2, 4000)
    share = float(figures.by_weight(log_w, Noise(["choice"])).double().mean())
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "\ud800", "\u53d8\u5206", "$\\frac", "x" * 10_000])
def test_a_picture_has_whatever_names_there_are_above_it(name):
    """With warnings as errors, as here: a mirror that somebody runs so does not stop at a letter
    that the font lacks.
    """
    assert learning_curves({"bound": [(1, 2.0), (2, 3.0)], name: [(1, 2.0)]}, name).startswith(
        b"\x89PNG"
    )


def test_the_same_curves_give_the_same_picture():
    curves = {**filled_store.curves(), "odd $name": [(1, math.nan), (2, math.inf)], "empty": []}
    assert learning_curves(curves, "a $title_") == learning_curves(curves, "a $title_")
    assert learning_curves({}, "nothing").startswith(b"\x89PNG")
