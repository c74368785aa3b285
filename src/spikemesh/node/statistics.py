"""What a node tells about itself. The report, `spikemesh status` and the progress display read nothing else."""

from __future__ import annotations

import msgspec


class VolunteerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The training side. `progress` is the run's, 0..1; `loss` is nats per byte on the own shard."""

    state: str
    round: int
    num_rounds: int
    step: int
    num_tokens: int
    tokens_per_s: float
    loss: float | None
    spike_rate: float | None
    progress: float


class BucketStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The exchange with one bucket since the start. `problem` is None when the last look went well."""

    url: str
    num_put: int
    num_taken: int
    problem: str | None


class NodeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot. Bytes are the transport's, everything included, over all starts of this node."""

    id: str
    run_id: str
    digest: str
    set_digest: str
    num_coordinates: int
    num_records: int
    num_contributions: int
    num_own: int
    num_authors: int
    num_peers: int
    num_diverged: int
    num_refused: int
    num_deltas_fetched: int
    sent_bytes: int
    received_bytes: int
    stored_bytes: int
    peak_rss_bytes: int
    num_starts: int
    started_from_snapshot: bool
    num_vouchers: int
    buckets: tuple[BucketStatistics, ...] = ()
    volunteer: VolunteerStatistics | None = None
