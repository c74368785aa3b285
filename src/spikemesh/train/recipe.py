"""All training knobs in one frozen value of plain scalars: the genesis stores it, so every volunteer trains alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from spikemesh.snn.settings import check_bounds, read_settings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a volunteer trains and what it publishes. The defaults are measured: see docs/lab-notes.md."""

    num_rounds: int = 48
    """Contributions that one volunteer makes to the run."""
    steps_per_round: int = 20
    """Enough that a round is long against the time in which a delta reaches the others: see docs/lab-notes.md."""
    batch_size: int = 8
    num_tokens: int = 128
    """Length of a training window, in bytes."""

    learning_rate: float = 0.07
    embedding_rate_scale: float = 2.0
    """The embedding's learning rate, relative to the others'."""
    warmup: float = 0.05
    """Share of the run in which the rate rises linearly."""
    final_rate_scale: float = 0.02
    """The rate at the end of the cosine, relative to its peak."""
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    grad_clip: float = 1.0

    momentum: float = 0.3
    """Of the outer step, kept by each author for itself."""
    error_decay: float = 0.95
    """Share of the unsent error that is kept from round to round."""
    sent_density: float = 0.25
    """Share of the coordinates that a delta sends."""
    weight_power: float = 0.85
    """A delta's weight is 1 / num_authors ** weight_power: 1 averages, 0.5 is the square-root rule."""

    def __post_init__(self) -> None:
        bounds = (
            ("num_rounds", 1, 1 << 20),
            ("steps_per_round", 1, 1 << 20),
            ("batch_size", 1, 1 << 16),
            ("num_tokens", 2, 1 << 16),
            ("learning_rate", 0.0, 10.0),
            ("embedding_rate_scale", 0.0, 100.0),
            ("warmup", 0.0, 1.0),
            ("final_rate_scale", 0.0, 1.0),
            ("beta1", 0.0, 0.9999),
            ("beta2", 0.0, 0.999999),
            ("weight_decay", 0.0, 10.0),
            ("grad_clip", 1e-6, 1e6),
            ("momentum", 0.0, 0.99),
            ("error_decay", 0.0, 1.0),
            ("sent_density", 1e-5, 1.0),
            ("weight_power", 0.0, 2.0),
        )
        check_bounds(self, bounds)
        if self.batch_size * self.num_tokens > MAX_BATCH_TOKENS:
            raise ValueError(f"a batch has at most {MAX_BATCH_TOKENS} tokens; make batch_size or num_tokens smaller")

    @property
    def num_steps(self) -> int:
        """Inner steps of one volunteer in the whole run."""
        return self.num_rounds * self.steps_per_round

    def rate_at(self, progress: float, own_progress: float = 1.0) -> float:
        """The learning rate at `progress` in [0, 1] of the run: linear warm-up, then a cosine to the final rate.

        `own_progress` is the share of a whole run's steps that this optimiser has taken. One that starts late warms up
        too: Adam's first steps, without moments to go by, move every weight by the full rate.
        """
        rise = min(1.0, min(progress, own_progress) / self.warmup) if self.warmup > 0 else 1.0
        fall = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
        return self.learning_rate * rise * (self.final_rate_scale + (1 - self.final_rate_scale) * fall)

    def to_dict(self) -> dict[str, bool | int | float | str]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Recipe:
        """Raises `InvalidData` for an unknown key, a wrong type or a value out of bounds."""
        return read_settings(cls, values)


MAX_BATCH_TOKENS = 1 << 22
