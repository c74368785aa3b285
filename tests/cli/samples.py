"""A report to test with, and one whose every text wants to be obeyed."""

from __future__ import annotations

import math

import msgspec

from spikemesh.cli.demo.report import (
    Event,
    Hardware,
    HeldOut,
    HistoryNode,
    HistoryPoint,
    LossReport,
    NodeReport,
    Report,
    WireReport,
)

DIGEST = "3f9a5b0c77e1d24886b1c90afe23d5571b2f0c8de94a6f1733c2905b8ad41e60"
HOSTILE = (
    "</pre></svg><script>document.title='owned'</script><img src=x onerror=alert(1)>"
    "\"'&lt;$\\frac{$\x00\x1b[2J\u202e\x9b"
)


def node(number: int, **changed: object) -> NodeReport:
    made = NodeReport(
        name=f"volunteer-{number}",
        id=f"{number:064x}",
        digest=DIGEST,
        set_digest="c1" * 32,
        num_contributions=20 + number,
        num_tokens=1_966_080,
        tokens_per_s=10_432.0,
        sent_bytes=3_210_000 + number * 10_000,
        received_bytes=4_560_000 + number * 10_000,
        num_deltas_fetched=72,
        peak_rss_bytes=(700 + number) * 10**6,
        num_starts=2 if number == 2 else 1,
        killed=number == 2,
        late=number == 5,
        started_from_snapshot=number == 5,
        num_vouchers=3 if number == 5 else 0,
    )
    return msgspec.structs.replace(made, **changed)


def point(t_s: float, names: list[str]) -> HistoryPoint:
    done = min(1.0, t_s / 200)
    return HistoryPoint(
        t_s=t_s,
        nodes=[
            HistoryNode(
                name=name,
                state="training",
                round=int(24 * done),
                loss=None if t_s == 0 else 1.75 + 3 * math.exp(-9 * done) + 0.02 * number,
                num_contributions=int(96 * done),
                num_deltas_fetched=int(72 * done),
                sent_bytes=int(3.2e6 * done),
                received_bytes=int(4.5e6 * done),
                tokens_per_s=10_432.0,
                spike_rate=0.09,
            )
            for number, name in enumerate(names)
        ],
    )


def report(**changed: object) -> Report:
    names = [f"volunteer-{number}" for number in range(1, 6)]
    made = Report(
        spikemesh="0.1.0",
        command="spikemesh demo --seed 0",
        date="2026-01-02T03:04:05Z",
        hardware=Hardware(cpu="A CPU", cores=2, memory_bytes=8_000_000_000, python="3.11.9", torch="2.13.0"),
        seed=7,
        run_id="9b" * 32,
        num_coordinates=114_688,
        num_rounds=24,
        steps_per_round=20,
        nodes=[node(number) for number in range(1, 6)],
        digests_equal=True,
        loss=LossReport(merged=1.751, lone=1.882, joint=1.702, gap_closed=0.131 / 0.18, unigram=3.158, bigram=2.442),
        wire=WireReport(
            bytes_per_coordinate=0.1834,
            transport_bytes_per_coordinate=0.2241,
            num_contributions=102,
            total_bytes=22_950_000,
        ),
        density=0.0703,
        density_per_tensor={"block0.mix.weight": 0.0712, "block0.up.weight": 0.0694},
        spike_rate={"block0.mix": 0.1453, "block0.hidden": 0.0512},
        train_seconds=212.0,
        swarm_seconds=228.0,
        baseline_seconds=251.0,
        wall_seconds=494.0,
        peak_rss_bytes=705_000_000,
        sample="def __init__(self):\n    return a < b\n",
        events=[Event(t_s=92.4, text="volunteer-2 killed (SIGKILL)"), Event(t_s=140.0, text="volunteer-5 joins late")],
        history=[point(float(t_s), names if t_s >= 140 else names[:4]) for t_s in range(0, 210, 10)],
        held_out=[HeldOut(t_s=100.0, loss=1.9), HeldOut(t_s=200.0, loss=1.751)],
    )
    return msgspec.structs.replace(made, **changed)


def hostile_report() -> Report:
    """Every text in it comes from somebody who wants to be obeyed."""
    return report(
        spikemesh=HOSTILE,
        command=HOSTILE,
        date=HOSTILE,
        hardware=Hardware(cpu=HOSTILE, cores=2, memory_bytes=1, python=HOSTILE, torch=HOSTILE),
        run_id=HOSTILE,
        nodes=[node(number, name=f"{HOSTILE}{number}", id=HOSTILE, digest=HOSTILE) for number in range(5)],
        density_per_tensor={HOSTILE: 0.07},
        spike_rate={HOSTILE: 0.1, f'url(#a) id="b" #0a0b01 {"x" * 300}': math.nan},
        sample=HOSTILE,
        events=[Event(t_s=9.0, text=HOSTILE)] * 40,
        history=[point(float(t_s), [f"{HOSTILE}0", "another"]) for t_s in range(5)],
    )
