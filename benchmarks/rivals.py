"""A step on images beside Pythae's, on the same nets: HVAE with 15 leapfrog steps, and IWAE with 40 particles.

    pip install pythae==0.1.2
    python benchmarks/rivals.py

Batches of 256 random images of 28 x 28, 64 latent dimensions, Adamax, two and one threads. Pythae's encoder and decoder are this
project's nets with the same parameters as one leaf each, under both programs' own loops; both update every parameter. Pythae's HVAE
does less: its gradient does not pass through the leapfrog, and its step takes the momentum before the kick. Where Pythae is missing,
only ours is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timing
import torch
from images import RandomImages
from timing import Found, claim, ratio, spread, stepper, table, text
from torch import Tensor

from harness.api import Noise
from tasks._nets import ConvNets

try:
    from pythae.models import HVAE, IWAE, HVAEConfig, IWAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
except ImportError:
    HVAE = None

LATENT, BATCH, K, PARTICLES = 64, 256, 15, 40
SIZES = {"task.n_train": 2560, "task.n_validation": 10, "task.n_test": 10}
THREADS = (1, 2)
LIMITS = {"hvae K=15": (1.05, True), "iwae k=40": (1.3, False)}


def rival(name: str) -> Callable[[], None]:
    """A training step of a Pythae model on our nets."""
    nets = ConvNets(LATENT)
    drawn = nets.init(Noise(["0/init"]))

    def leaves(part: str) -> torch.nn.ParameterDict:
        return torch.nn.ParameterDict({key.replace(".", "/"): leaf[None].float() for key, leaf in drawn.items() if key.startswith(part)})

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.leaves = leaves("encoder")
            self.mean, self.scale = torch.nn.Linear(nets.n_hidden, LATENT), torch.nn.Linear(nets.n_hidden, LATENT)

        def forward(self, x: Tensor) -> ModelOutput:
            hidden = nets.hidden(dotted(self.leaves), x)
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.scale(hidden))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.leaves = leaves("decoder")

        def forward(self, z: Tensor) -> ModelOutput:
            logits, _ = nets.logits(dotted(self.leaves), z)
            return ModelOutput(reconstruction=logits if name == "hvae" else logits.sigmoid())

    sizes = {"input_dim": (784,), "latent_dim": LATENT, "reconstruction_loss": "bce"}
    torch.manual_seed(0)
    if name == "hvae":
        model = HVAE(HVAEConfig(**sizes, n_lf=K, eps_lf=0.01, beta_zero=2 / 3, learn_eps_lf=True, learn_beta_zero=True), Encoder(), Decoder())
    else:
        model = IWAE(IWAEConfig(**sizes, number_samples=PARTICLES), Encoder(), Decoder())
    x = (torch.rand(2560, 784) < 0.13).float()
    optimiser = torch.optim.Adamax(model.parameters(), lr=1e-6)

    def step() -> None:
        batch = x[torch.randperm(len(x))[:BATCH]]
        optimiser.zero_grad()
        loss = model({"data": batch}).loss
        loss.backward()
        optimiser.step()
        assert torch.isfinite(loss)

    return step


def dotted(leaves: torch.nn.ParameterDict) -> dict[str, Tensor]:
    """Leaves under the names that the nets know them by."""
    return {name.replace("/", "."): leaf for name, leaf in leaves.items()}


def contenders() -> dict[str, Callable[[], None]]:
    """Ours, and Pythae's where it is installed."""
    task = Found(RandomImages, "mnist")
    found = {
        "hvae K=15": stepper("hvae", task, SIZES | {"method.n_leapfrog": K, "batch_size": BATCH}),
        "iwae k=40": stepper("iwae", task, SIZES | {"particles": PARTICLES, "batch_size": BATCH}),
    }
    return found if HVAE is None else found | {f"{name}, Pythae": rival(name.split()[0]) for name in LIMITS}


def measure(rounds: int) -> dict[str, Any]:
    """Tables and claims."""
    found, rows, shares, claims, kept = contenders(), [], [], [], {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        kept[f"{threads} threads"] = taken = timing.race(found, rounds)
        rows += [[threads, name, *(text(spread(values)) for values in clocks.values())] for name, clocks in taken.items()]
        for name, (limit, at_most) in LIMITS.items() if HVAE is not None else ():
            pair = (name, f"{name}, Pythae") if at_most else (f"{name}, Pythae", name)
            figures = {clock: ratio(taken, *pair, clock) for clock in timing.CLOCKS}
            said = f"{name}: " + ("ours over Pythae's" if at_most else "Pythae's over ours")
            shares.append([threads, said, *(text(figure) for figure in figures.values())])
            claims.append(claim(f"{said}, {threads} threads, processor time", figures["processor"]["median"], limit, at_most))
    tables = {"Seconds a step": table(["threads", "step", *timing.CLOCKS], rows)}
    if shares:
        tables["Ratios"] = table(["threads", "ratio", *timing.CLOCKS], shares)
    return {"tables": tables, "claims": claims, "seconds": kept}


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__)
