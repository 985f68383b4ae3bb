"""A step on images beside Pythae's, on the same nets: HVAE with 15 leapfrog steps, and IWAE with 40
particles.

    pip install pythae==0.1.2
    python benchmarks/rivals.py

Batches of 256 random images of 28 x 28, 64 latent dimensions, Adamax, one thread and two. Pythae's
encoder and decoder are the same convolutions and dense layers, once of torch's own layers, as its
users write them, and once lent this project's faster code for them (`tasks/_layers.py`). Pythae's
HVAE does less: its gradient does not pass through the leapfrog. Where Pythae is missing, only ours
is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timing
import torch
from images import RandomImages
from timing import NamedPlugin, claim, ratio, spread, stepper, table, text
from torch import Tensor

from harness.api import Noise
from harness.tasks._decoder import decoded
from harness.tasks._nets import ConvNets

try:
    from pythae.models import HVAE, IWAE, HVAEConfig, IWAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
except ImportError:
    HVAE = None

LATENT, BATCH, K, PARTICLES = 64, 256, 15, 40
SIZES = {"task.n_train": 2560, "task.n_validation": 10, "task.n_test": 10}
THREADS = (1, 2)
THEIRS, LENT = "Pythae", "Pythae with our nets' code"
LIMITS = {"hvae K=15": (1.05, True), "iwae k=40": (1.3, False)}


class PlainNets(torch.nn.Module):
    """The same nets of torch's own layers, as a user of Pythae writes them."""

    def __init__(self) -> None:
        super().__init__()
        nn, soft = torch.nn, torch.nn.Softplus()
        self.trunk = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 16, 5, 2, 2),
            soft,
            nn.Conv2d(16, 32, 5, 2, 2),
            soft,
            nn.Conv2d(32, 32, 5, 2, 2),
            soft,
            nn.Flatten(),
            nn.Linear(512, 450),
            soft,
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, 450),
            soft,
            nn.Linear(450, 512),
            soft,
            nn.Unflatten(1, (32, 4, 4)),
            nn.ConvTranspose2d(32, 32, 5, 2, 2),
            soft,
            nn.ConvTranspose2d(32, 16, 5, 2, 2, output_padding=1),
            soft,
            nn.ConvTranspose2d(16, 1, 5, 2, 2, output_padding=1),
            nn.Flatten(),
        )

    def hidden(self, x: Tensor) -> Tensor:
        """[M, 784] -> [M, 450]."""
        return self.trunk(x)

    def logits(self, z: Tensor) -> Tensor:
        """z [M, D] -> [M, 784]."""
        return self.decoder(z)


class FastNets(torch.nn.Module):
    """This project's nets."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = ConvNets(LATENT)
        drawn = self.nets.init(Noise(["0/init"]))
        self.leaves = torch.nn.ParameterDict(
            {name.replace(".", "/"): leaf[None].float() for name, leaf in drawn.items()}
        )

    def hidden(self, x: Tensor) -> Tensor:
        """[M, 784] -> [M, 450]."""
        return self.nets.hidden(self.dotted(), x)

    def logits(self, z: Tensor) -> Tensor:
        """z [M, D] -> [M, 784]."""
        return self.nets.row_order(decoded(self.nets.decoder(self.dotted()), z))

    def dotted(self) -> dict[str, Tensor]:
        """Leaves under the names that the nets know them by."""
        return {name.replace("/", "."): leaf for name, leaf in self.leaves.items()}


def rival(name: str, nets: PlainNets | FastNets) -> Callable[[], None]:
    """A training step of a Pythae model."""

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.nets, self.mean, self.scale = (
                nets,
                torch.nn.Linear(450, LATENT),
                torch.nn.Linear(450, LATENT),
            )

        def forward(self, x: Tensor) -> ModelOutput:
            hidden = self.nets.hidden(x)
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.scale(hidden))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.nets = nets

        def forward(self, z: Tensor) -> ModelOutput:
            logits = self.nets.logits(z)
            return ModelOutput(reconstruction=logits if name == "hvae" else logits.sigmoid())

    sizes = {"input_dim": (784,), "latent_dim": LATENT, "reconstruction_loss": "bce"}
    torch.manual_seed(0)
    if name == "hvae":
        model = HVAE(
            HVAEConfig(
                **sizes,
                n_lf=K,
                eps_lf=0.01,
                beta_zero=2 / 3,
                learn_eps_lf=True,
                learn_beta_zero=True,
            ),
            Encoder(),
            Decoder(),
        )
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


def contenders() -> dict[str, Callable[[], None]]:
    """Ours, and Pythae's where it is installed."""
    task = NamedPlugin(RandomImages, "mnist")
    found = {
        "hvae K=15": stepper("hvae", task, SIZES | {"method.n_leapfrog": K, "batch_size": BATCH}),
        "iwae k=40": stepper("iwae", task, SIZES | {"particles": PARTICLES, "batch_size": BATCH}),
    }
    for name in LIMITS if HVAE is not None else ():
        found[f"{name}, {THEIRS}"] = rival(name.split()[0], PlainNets())
        found[f"{name}, {LENT}"] = rival(name.split()[0], FastNets())
    return found


def measure(rounds: int) -> dict[str, Any]:
    """Tables and claims."""
    found, rows, shares, claims, kept = contenders(), [], [], [], {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        kept[f"{threads} threads"] = taken = timing.race(found, rounds)
        rows += [
            [threads, name, *(text(spread(values)) for values in clocks.values())]
            for name, clocks in taken.items()
        ]
        for name, (limit, at_most) in LIMITS.items() if HVAE is not None else ():
            for other in (THEIRS, LENT):
                pair = (name, f"{name}, {other}") if at_most else (f"{name}, {other}", name)
                figures = {clock: ratio(taken, *pair, clock) for clock in timing.CLOCKS}
                said = " over ".join(pair)
                shares.append([threads, said, *(text(figure) for figure in figures.values())])
                if other == THEIRS:
                    claims.append(
                        claim(
                            f"{said}, threads: {threads}",
                            figures["processor"]["median"],
                            limit,
                            at_most,
                        )
                    )
    tables = {"Seconds a step": table(["threads", "step", *timing.CLOCKS], rows)}
    if shares:
        tables["Ratios"] = table(["threads", "ratio", *timing.CLOCKS], shares)
    return {"tables": tables, "claims": claims, "seconds": kept}


if __name__ == "__main__":
    timing.run(measure, __doc__, __file__)
