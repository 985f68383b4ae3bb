"""What a tuning study says of itself: the `tune` part of a study file, and what `bench tune` is
given. Plain values; no torch.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from harness.plan.tune_defaults import REPORT_SEEDS, SAMPLER, SEEDS, TRIALS, Pruner, Sampler


class Tune(BaseModel):
    """The `tune` part of a study file, and what `bench tune` is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: list[str] = Field(min_length=1)
    tasks: list[str] = Field(min_length=1)
    protocol: str | None = None
    settings: dict[str, str | None] = Field(default={}, alias="set")
    space: list[str] = []
    trials: int = Field(default=TRIALS, ge=1, le=100_000)
    hours: float | None = Field(default=None, gt=0)
    seeds: str = SEEDS
    report_seeds: str = REPORT_SEEDS
    metric: str | None = None
    direction: Literal["maximize"] = "maximize"
    sampler: Sampler = SAMPLER
    pruner: Pruner = "none"
    sampler_seed: int = Field(default=0, ge=0)

    @field_validator("seeds", "report_seeds", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        return (
            ",".join(value)
            if isinstance(value, list) and all(isinstance(item, str) for item in value)
            else value
        )
