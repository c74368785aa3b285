"""From what a demo left on the disk to its report: every number is measured or counted here, from the nodes' folders."""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from spikemesh import __version__
from spikemesh.cli.baselines import Baselines
from spikemesh.cli.folder import RunFolder
from spikemesh.cli.model import load_model
from spikemesh.cli.report import Event, Hardware, HistoryPoint, LossReport, NodeReport, Report, WireReport, write_report
from spikemesh.codec import decode_record, run_id
from spikemesh.crdt import Contribution, Genesis
from spikemesh.errors import SpikemeshError
from spikemesh.node import NodeStatistics
from spikemesh.store import Store

SAMPLE_PROMPT = b"def "
SAMPLE_BYTES = 400
SAMPLE_TEMPERATURE = 0.6


def make_report(
    place: Path,
    *,
    seed: int,
    swarm_seconds: float,
    events: Sequence[Event],
    history: Sequence[HistoryPoint],
    folders: Sequence[RunFolder],
    killed: str,
    late: str,
    baselines: Baselines,
    data: Path | None,
) -> Report:
    """Evaluate the merged model, count the bytes, write `report.json` and `report.html` into `place`."""
    from spikemesh.snn import SpikeMeter, generate, spike_rates, weight_densities
    from spikemesh.train import Corpus, Recipe, held_out_loss

    genesis = folders[0].genesis()
    recipe, corpus = Recipe.from_dict(genesis.recipe), Corpus.load(data)
    model = load_model(folders[0].model_path, genesis)
    merged = held_out_loss(model, corpus)
