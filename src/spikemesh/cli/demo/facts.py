"""What a finished run is reported as: the structs behind `report.json`, and the bars that it is held against.

Units are in the names. Losses are nats per byte on the held-out files unless a field says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from spikemesh.cli.hardware import Hardware
from spikemesh.node.statistics import NodeStatistics

MAX_MERGED_LOSS = 2.0
MIN_GAIN_OVER_LONE = 0.08
MIN_GAP_CLOSED = 0.60
MAX_WIRE_BYTES = 0.24
MAX_TRANSPORT_BYTES = 0.40
MAX_RSS_BYTES = 1.5e9
MAX_TRAIN_S = 360.0


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One volunteer at the end. Bytes are the transport's, everything included, over all its starts.

    `num_contributions` is what it published itself, `num_tokens` what it trained on, `num_deltas_fetched` what it
    took from others. `num_vouchers` counts the peers that confirmed the snapshot it started from.
    """

    name: str
    id: str
    digest: str
    set_digest: str
    num_contributions: int
    num_tokens: int
    tokens_per_s: float
    sent_bytes: int
    received_bytes: int
    num_deltas_fetched: int
    peak_rss_bytes: int
    num_starts: int
    killed: bool
    late: bool
    started_from_snapshot: bool
    num_vouchers: int


class LossReport(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out nats per byte: the merged model, one volunteer alone for the same steps, one run with 4 times the batch.

    `gap_closed` = (lone - merged) / (lone - joint), a fraction; over 1 when merged beats joint. None where the run was
    shortened: it is a figure of a whole run.
    """

    merged: float
    lone: float
    joint: float
    gap_closed: float | None
    unigram: float | None = None
    bigram: float | None = None


class WireReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the exchange cost. A coordinate here is an alive one.

    `bytes_per_coordinate` is encoded delta plus record, per coordinate and contribution.
    `transport_bytes_per_coordinate` is everything counted at the transport, per coordinate, contribution and receiver.
    `total_bytes` is everything that all volunteers received.
    """

    bytes_per_coordinate: float
    transport_bytes_per_coordinate: float
    num_contributions: int
    total_bytes: int
    fp32_bytes_per_coordinate: float = 4.0


class Length(msgspec.Struct, frozen=True, kw_only=True):
    """How long the run was made: `num_rounds` of the preset's `whole_rounds`, from `step_s`, one step on one core.

    `expected_s` is what this run was expected to take, baselines included, `whole_s` what all rounds would have taken.
    """

    step_s: float
    num_rounds: int
    whole_rounds: int
    expected_s: float
    whole_s: float

    @property
    def shortened(self) -> bool:
        return self.num_rounds < self.whole_rounds


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to the swarm, `t_s` seconds after its start."""

    t_s: float
    text: str


class HistoryNode(msgspec.Struct, frozen=True, kw_only=True):
    """A volunteer at one moment. It knows `num_contributions`; `loss` is a running mean on its own shard."""

    name: str
    state: str
    round: int = 0
    loss: float | None = None
    num_contributions: int = 0
    num_deltas_fetched: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    tokens_per_s: float = 0.0
    spike_rate: float | None = None

    @classmethod
    def of(cls, name: str, seen: NodeStatistics | None) -> HistoryNode:
        """From a volunteer's statistics; one that has none is down."""
        if seen is None:
            return cls(name=name, state="down")
        training = seen.volunteer
        return cls(
            name=name,
            state=training.state if training else "gossip",
            round=training.round if training else 0,
            loss=training.loss if training else None,
            num_contributions=seen.num_contributions,
            num_deltas_fetched=seen.num_deltas_fetched,
            sent_bytes=seen.sent_bytes,
            received_bytes=seen.received_bytes,
            tokens_per_s=training.tokens_per_s if training else 0.0,
            spike_rate=training.spike_rate if training else None,
        )


class HistoryPoint(msgspec.Struct, frozen=True, kw_only=True):
    """All volunteers at one moment, `t_s` seconds after the start of the swarm."""

    t_s: float
    nodes: Sequence[HistoryNode]


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """The merged model's held-out loss at one moment."""

    t_s: float
    loss: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `report.json`.

    `density` is the share of weights that may be non-zero; `spike_rate` is spikes per neuron and step, by layer.
    `train_seconds` is all training, baselines included; `swarm_seconds` the swarm with start-up, kill and late join;
    `baseline_seconds` lone and joint, `wall_seconds` all of it. `peak_rss_bytes` is the largest volunteer's.
    """

    spikemesh: str
    command: str
    date: str
    hardware: Hardware
    seed: int
    run_id: str
    num_coordinates: int
    num_rounds: int
    steps_per_round: int
    nodes: Sequence[NodeReport]
    digests_equal: bool
    loss: LossReport
    wire: WireReport
    density: float
    density_per_tensor: dict[str, float]
    spike_rate: dict[str, float]
    train_seconds: float
    swarm_seconds: float
    baseline_seconds: float
    wall_seconds: float
    peak_rss_bytes: int
    sample: str
    events: Sequence[Event] = []
    history: Sequence[HistoryPoint] = []
    held_out: Sequence[HeldOut] = []
    length: Length | None = None

    @property
    def shortened(self) -> bool:
        """Whether rounds were left out because the machine is slow: then nothing is quoted that a whole run is for."""
        return self.length is not None and self.length.shortened


SAME = "different digests at the end"
MERGED = "held-out loss of the merged model"
GAIN = "gain over the lone volunteer"
GAP = "share of the gap to joint closed"
ENCODED = "encoded bytes per coordinate and contribution"
TRANSPORT = "transport bytes per coordinate, contribution and receiver"
MEMORY = "peak memory of one volunteer"
TIME = "training time, baselines included"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A number held against a bar. `limit` is "at most", "at least" or "below".

    One that does not decide is shown for information: `passed` leaves it out.
    """

    name: str
    value: float
    limit: str
    bar: float
    unit: str
    holds: bool
    decides: bool = True


def checks(report: Report) -> list[Check]:
    """The bars of a demonstration run, in the order in which they are told; of a shortened one, those of any length."""
    wire, num_digests = report.wire, len({node.digest for node in report.nodes})
    same = _check(SAME, num_digests, "at most", 1, "")
    return [
        msgspec.structs.replace(same, holds=num_digests == 1 and report.digests_equal),
        *([] if report.shortened else _quality(report.loss)),
        _check(ENCODED, wire.bytes_per_coordinate, "at most", MAX_WIRE_BYTES, "bytes", decides=False),
        _check(TRANSPORT, wire.transport_bytes_per_coordinate, "at most", MAX_TRANSPORT_BYTES, "bytes"),
        _check(MEMORY, report.peak_rss_bytes, "at most", MAX_RSS_BYTES, "bytes"),
        *([] if report.shortened else [_check(TIME, report.train_seconds, "at most", MAX_TRAIN_S, "s")]),
    ]


def _quality(loss: LossReport) -> list[Check]:
    gap_closed = math.nan if loss.gap_closed is None else loss.gap_closed
    return [
        _check(MERGED, loss.merged, "below", MAX_MERGED_LOSS, "nats/byte"),
        _check(GAIN, loss.lone - loss.merged, "at least", MIN_GAIN_OVER_LONE, "nats/byte"),
        _check(GAP, gap_closed, "at least", MIN_GAP_CLOSED, "fraction"),
    ]


def passed(report: Report) -> bool:
    """Whether all deciding checks hold."""
    return all(check.holds for check in checks(report) if check.decides)


def _check(name: str, value: float, limit: str, bar: float, unit: str, *, decides: bool = True) -> Check:
    holds = {"at most": value <= bar, "at least": value >= bar, "below": value < bar}[limit]
    return Check(name=name, value=value, limit=limit, bar=bar, unit=unit, holds=holds, decides=decides)


def group_letters(digests: Mapping[str, str]) -> dict[str, str]:
    """By name: A for the digest that most hold, B for the next one, and so on. Equal letters mean equal digests."""
    held = list(digests.values())
    ordered = sorted(set(held), key=lambda digest: (-held.count(digest), digest))
    return {name: _letter(ordered.index(digest)) for name, digest in digests.items()}


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"#{number}"
