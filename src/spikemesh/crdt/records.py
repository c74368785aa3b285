"""The immutable records of a run: its genesis, contributions to its sum, and retractions of them.

These are values only. `spikemesh.codec` gives each of them one canonical encoding, signs it and derives its id.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

WEIGHT_ONE = 4096
"""A contribution's weight is an integer number of 1/4096ths; this is 1.0, the largest weight allowed."""

MAX_SEQ = 1 << 20
"""Sequence numbers of one author run from 1 to this."""

Scalar = bool | int | float | str


class TensorSpec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One tensor of the layout: `num_coordinates` is the count of its mask's ones, or of all its elements."""

    name: str
    shape: tuple[int, ...]
    num_coordinates: int
    masked: bool


class Genesis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The immutable description of a run. `run_id` is the hash of its canonical bytes.

    `model` and `recipe` are read by the trainer alone. The run's coordinates 0..A-1 are the tensors' coordinates
    one after the other, in the order given here, which is name order. A sum of integers `n` stands for the
    weights `theta0 + n * 2**grid_exponent / WEIGHT_ONE`.
    """

    name: str
    founder: bytes
    model: dict[str, Scalar]
    recipe: dict[str, Scalar]
    tensors: tuple[TensorSpec, ...]
    init_hash: bytes
    init_bytes: int
    grid_exponent: int = -26

    @property
    def num_coordinates(self) -> int:
        return sum(spec.num_coordinates for spec in self.tensors)


class PastEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a causal context holds of one author: sequence numbers 1..prefix, and the `extras` beyond prefix + 1."""

    author: bytes
    prefix: int
    extras: tuple[int, ...] = ()

    def covers(self, seq: int) -> bool:
        return 0 < seq <= self.prefix or seq in self.extras


class Contribution(msgspec.Struct, frozen=True, kw_only=True, tag="contribution", forbid_unknown_fields=True):
    """One author's addition to the sum: `weight` times the delta whose bytes hash to `delta_hash`.

    `past` is the author's causal context when it was made; it decides nothing in the merge, and lets every
    verifier apply the same rule to the same evidence.
    """

    run_id: bytes
    author: bytes
    seq: int
    past: tuple[PastEntry, ...]
    weight: int
    delta_hash: bytes
    delta_bytes: int
    num_tokens: int


class Retraction(msgspec.Struct, frozen=True, kw_only=True, tag="retraction", forbid_unknown_fields=True):
    """The observed-remove: the contributions named by `targets` count no more."""

    run_id: bytes
    author: bytes
    seq: int
    past: tuple[PastEntry, ...]
    targets: tuple[bytes, ...]


Body = Contribution | Retraction


@dataclass(frozen=True, slots=True)
class Record:
    """A verified record: its id (BLAKE3 of the body's canonical bytes), the body, and the signed bytes that travel."""

    id: bytes
    body: Body
    wire: bytes

    @property
    def author(self) -> bytes:
        return self.body.author

    @property
    def seq(self) -> int:
        return self.body.seq
