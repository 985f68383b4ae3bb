"""What somebody does in a notebook: two methods and a target of their own, fitted, run, compared,
plotted, saved, loaded and continued. `tests/test_notebook.py` runs it as `__main__`.
"""

import json
import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from notebook_nets import widths  # a file beside this one
from torch.distributions import Normal

import harness
from harness.api import Method, Params, Particles, Task

SCALE = np.sqrt(0.25)
SHIFT = torch.tensor([1.0, -2.0], dtype=torch.float64)
OFFSETS = np.array([0.25, 0.5])
OPTIONS = {"init": 0.0, "names": ["mean", "log_scale"]}
DTYPE = torch.float64


@dataclass
class Start:
    value: float = OPTIONS["init"]


def zeros(dim: int) -> torch.Tensor:
    return torch.full((dim,), Start().value, dtype=DTYPE)


class Gauss(Method, frozen=True):
    "A diagonal Gaussian by its mean and log scale."

    name = "gauss"
    source = "this notebook"
    first_scale: float = SCALE

    def init(self, dim, noise, n_context=0) -> Params:
        mean, log_scale = OPTIONS["names"]
        return {mean: zeros(dim), log_scale: zeros(dim) + math.log(self.first_scale)}

    def particles(self, params, problem, noise, n_particles, trace=False) -> Particles:
        q = Normal(params["mean"], params["log_scale"].exp())
        z = q.loc + q.scale * noise.normal(n_particles, *q.loc.shape, like=q.loc)
        return Particles(z, problem.log_joint(z) - q.log_prob(z).sum(-1))


class Narrow(Gauss, frozen=True):
    name = "narrow"

    def init(self, dim, noise, n_context=0) -> Params:
        params = super().init(dim, noise, n_context)
        return params | {"log_scale": params["log_scale"] + math.log(widths[0])}


def crescent(z):
    "A crescent, shifted."
    x, y = z[..., 0] - SHIFT[0], z[..., 1] - SHIFT[1] - OFFSETS[0]
    return Normal(0, 2).log_prob(x) + Normal(x**2 / 4, SCALE).log_prob(y)


if __name__ == "__main__":
    target = harness.target(crescent, dim=2, log_z=0.0)
    methods, seeds = [Gauss, Narrow(first_scale=0.3)], range(3)
    settings = {"steps": 300, "eval_particles": 200}
    fits = [
        harness.fit(each, target, seeds=seeds, protocol="smoke", settings=settings)
        for each in methods
    ]
    scores = [each.score()["elbo_gap"].mean() for each in fits]

    made = harness.run(methods, target, seeds=seeds, protocol="smoke", settings=settings)
    assert made.not_done.empty
    again = harness.run(methods, target, seeds=seeds, protocol="smoke", settings=settings)
    assert list(again.runs["finished_at"]) == list(
        made.runs["finished_at"]
    )  # cached, not made anew
    table = harness.compare(metric="elbo_gap")
    assert "crescent" in repr(table)
    assert "<table>" in table._repr_html_()

    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    plt.plot(*zip(*fits[0][0].curve, strict=True))
    plt.savefig("curve.png")
    longer = fits[1][0].continue_(100)
    longer.save("narrow.fit")
    loaded = harness.Fit.load("narrow.fit", method=Narrow, task=type(target))
    assert loaded.score() == longer.score()
    (key,) = made.runs.query("method == 'gauss' and seed == 2")["key"]
    stored = harness.load_run(key)
    assert isinstance(stored.method, Method)
    assert isinstance(stored.task, Task)
    json.dump(
        {
            "fits": scores,
            "frame": dict(zip(table.frame["method"], table.frame["mean"], strict=True)),
            "stored": stored.score()["elbo_gap"],
            "fitted": fits[0][2].score()["elbo_gap"],
        },
        sys.stdout,
    )
