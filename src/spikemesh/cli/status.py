"""`spikemesh status`: what a node said last about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich import print as show
from rich.table import Table

from spikemesh.cli.folder import RunFolder
from spikemesh.errors import TicketError
from spikemesh.node import NodeStatistics


def status(
    folder: Annotated[Path, typer.Argument(help="The node's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show a node's run, peers, progress and traffic."""
    run = RunFolder.existing(folder)
    statistics = run.statistics()
    if statistics is None:
        raise TicketError(f"the node in {folder} has not run yet. Start it with `spikemesh join {folder}`.")
    if as_json:
        print(msgspec.json.encode(statistics).decode())
    else:
        show(_table(run, statistics))


def _table(run: RunFolder, s: NodeStatistics) -> Table:
    table = Table(show_header=False, title=f"{run.path} ({'running' if run.ticket_path.exists() else 'stopped'})")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("run", s.run_id),
        ("node", s.id),
        ("digest", s.digest),
        ("contributions", f"{s.num_contributions} by {s.num_authors} authors, {s.num_own} own"),
        ("peers", f"{s.num_peers} answer, {s.num_diverged} disagree, {s.num_refused} records refused"),
        ("traffic", f"{s.sent_bytes / 1e6:.2f} MB sent, {s.received_bytes / 1e6:.2f} MB received"),
        ("disk, memory", f"{s.stored_bytes / 1e6:.1f} MB of blobs, {s.peak_rss_bytes / 1e6:.0f} MB at most"),
    ]
    rows += [
        (b.url, f"{b.num_put} records put, {b.num_taken} taken" + (f"; {b.problem}" if b.problem else ""))
        for b in s.buckets
    ]
    if (v := s.volunteer) is not None:
        loss = "-" if v.loss is None else f"{v.loss:.3f} nats per byte"
        rows.append(
            ("training", f"{v.state}, round {v.round} of {v.num_rounds}, {v.tokens_per_s:.0f} tokens/s, loss {loss}")
        )
    for row in rows:
        table.add_row(*row)
    return table
