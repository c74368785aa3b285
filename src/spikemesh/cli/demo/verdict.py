"""From what a demo left on the disk to its report: every number is measured or counted here, from the folders."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spikemesh import __version__
from spikemesh.cli.demo.baselines import Baselines
from spikemesh.cli.demo.report import Length, LossReport, NodeReport, Report, WireReport, write_report
from spikemesh.cli.demo.stage import Stage
from spikemesh.cli.folder import RunFolder
from spikemesh.cli.hardware import hardware
from spikemesh.cli.model import load_model
from spikemesh.codec import decode_record, run_id
from spikemesh.crdt import Contribution
from spikemesh.errors import SpikemeshError
from spikemesh.node import NodeStatistics
from spikemesh.progress import SILENT, Progress
from spikemesh.store import Store

if TYPE_CHECKING:
    from spikemesh.snn import SpikingLM
    from spikemesh.train import Corpus

SAMPLE_PROMPT = b"def "
SAMPLE_BYTES = 400
SAMPLE_TEMPERATURE = 0.6
RATE_WINDOWS = 16


def make_report(
    place: Path,
    stage: Stage,
    nodes: Sequence[NodeReport],
    folder: RunFolder,
    baselines: Baselines,
    data: Path | None,
    progress: Progress = SILENT,
) -> Report:
    """Evaluate the merged model in `folder`, count the bytes, write `report.json` and `report.html` into `place`."""
    from spikemesh.snn import generate, weight_densities
    from spikemesh.train import Corpus, Recipe

    genesis = folder.genesis()
    recipe, corpus = Recipe.from_dict(genesis.recipe), Corpus.load(data)
    model = load_model(folder.model_path, genesis)
    densities = weight_densities(model)
    progress.begin("writing a sample", 0)
    sample = generate(model, SAMPLE_PROMPT, num_bytes=SAMPLE_BYTES, temperature=SAMPLE_TEMPERATURE, seed=stage.seed)
    swarm_train_seconds = (stage.train_end_s or 0.0) - (stage.train_start_s or 0.0)
    report = Report(
        spikemesh=__version__,
        command=stage.command,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        hardware=hardware(),
        seed=stage.seed,
        run_id=run_id(genesis).hex(),
        num_coordinates=genesis.num_coordinates,
        num_rounds=recipe.num_rounds,
        steps_per_round=recipe.steps_per_round,
        nodes=nodes,
        digests_equal=len({(node.digest, node.set_digest) for node in nodes}) == 1,
        loss=_losses(model, corpus, baselines, stage.length, progress),
        wire=_wire(folder, genesis.num_coordinates, nodes),
        density=densities.pop("total"),
        density_per_tensor=densities,
        spike_rate=_spike_rates(model, corpus, recipe.num_tokens),
        train_seconds=swarm_train_seconds + baselines.seconds,
        swarm_seconds=stage.swarm_seconds,
        baseline_seconds=baselines.seconds,
        wall_seconds=stage.swarm_seconds + baselines.seconds,
        peak_rss_bytes=max(node.peak_rss_bytes for node in nodes),
        sample=(SAMPLE_PROMPT + sample).decode(errors="replace"),
        events=stage.events,
        history=stage.history,
        length=stage.length,
    )
    write_report(place, report)
    return report


def node_report(name: str, seen: NodeStatistics | None, *, killed: bool, late: bool) -> NodeReport:
    """One volunteer's row, from the last statistics it wrote."""
    if seen is None or seen.volunteer is None:
        raise SpikemeshError(f"{name} left no statistics, so there is nothing to report of it. Run the demo again.")
    return NodeReport(
        name=name,
        id=seen.id,
        digest=seen.digest,
        set_digest=seen.set_digest,
        num_contributions=seen.num_own,
        num_tokens=seen.volunteer.num_tokens,
        tokens_per_s=seen.volunteer.tokens_per_s,
        sent_bytes=seen.sent_bytes,
        received_bytes=seen.received_bytes,
        num_deltas_fetched=seen.num_deltas_fetched,
        peak_rss_bytes=seen.peak_rss_bytes,
        num_starts=seen.num_starts,
        killed=killed,
        late=late,
        started_from_snapshot=seen.started_from_snapshot,
        num_vouchers=seen.num_vouchers,
    )


def _losses(
    model: SpikingLM, corpus: Corpus, baselines: Baselines, length: Length | None, progress: Progress
) -> LossReport:
    from spikemesh.train import bigram_loss, held_out_loss, unigram_loss

    merged, lone, joint = held_out_loss(model, corpus, progress), baselines.lone.loss, baselines.joint.loss
    return LossReport(
        merged=merged,
        lone=lone,
        joint=joint,
        gap_closed=None if length and length.shortened else (lone - merged) / (lone - joint),
        unigram=unigram_loss(corpus),
        bigram=bigram_loss(corpus),
    )


def _spike_rates(model: SpikingLM, corpus: Corpus, num_tokens: int) -> dict[str, float]:
    """On windows of the held-out text."""
    import torch

    from spikemesh.snn import spike_rates
    from spikemesh.train import held_out_windows

    windows = held_out_windows(corpus.held_out_text, num_bytes=RATE_WINDOWS * num_tokens, num_tokens=num_tokens)
    return spike_rates(model, torch.from_numpy(windows[:, :-1]))


def _wire(folder: RunFolder, num_coordinates: int, nodes: Sequence[NodeReport]) -> WireReport:
    """Encoded sizes from the records and blobs of one node; traffic from what all transports counted."""
    with Store.open(folder.path, create=False) as store:
        rows = [(row, decode_record(row.wire, run_id=folder.run_id()).body) for row in store.records()]
    sizes = [len(row.wire) + body.delta_bytes for row, body in rows if isinstance(body, Contribution)]
    received = sum(node.received_bytes for node in nodes)
    fetched = sum(node.num_deltas_fetched for node in nodes)
    return WireReport(
        bytes_per_coordinate=sum(sizes) / len(sizes) / num_coordinates,
        transport_bytes_per_coordinate=received / fetched / num_coordinates,
        num_contributions=len(sizes),
        total_bytes=received,
    )
