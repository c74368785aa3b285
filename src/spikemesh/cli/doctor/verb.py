"""`spikemesh doctor`: look at everything that a join needs, and say it line by line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spikemesh.cli.doctor import machine
from spikemesh.cli.doctor.finding import Finding
from spikemesh.cli.folder import RunFolder
from spikemesh.cli.join import parse_bind, parse_relay
from spikemesh.cli.names import shown
from spikemesh.crdt import Genesis
from spikemesh.errors import TicketError

if TYPE_CHECKING:
    from spikemesh.cli.doctor.network import Asked

MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "wrong": ("wrong", "red")}


def doctor(
    run: Annotated[
        str | None, typer.Argument(help="A node's folder or a ticket; without it, the machine only.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="With a ticket: where your node will live.")] = None,
    bind: Annotated[str, typer.Option(help="ip:port that the node listens on.", callback=parse_bind)] = "0.0.0.0:0",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what is wrong with this node's network, disk, clock, version or memory, and what to do about it."""
    findings = list(_look(run, folder, bind))
    wrong = [finding for finding in findings if finding.state == "wrong"]
    if as_json:
        print(msgspec.json.encode({"ok": not wrong, "findings": findings}).decode())
    else:
        _print(findings)
    raise typer.Exit(wrong[0].code if wrong else 0)


def _look(run: str | None, folder: Path | None, bind: str) -> Iterator[Finding]:
    from spikemesh.cli.doctor.network import look
    from spikemesh.kernels import instruction_set

    wall_s, steady_s = time.time(), time.monotonic()
    place, asked = _subject(run, folder)
    yield machine.version()
    yield machine.kernels(instruction_set)
    num_coordinates = None
    if place.has_genesis:
        genesis = machine.genesis(place)
        if isinstance(genesis, Genesis):
            num_coordinates = genesis.num_coordinates
        else:
            yield genesis
        yield machine.store(place, genesis if isinstance(genesis, Genesis) else None)
    yield machine.memory(machine.available_memory_bytes(), num_coordinates)
    yield from machine.disk(place.path, num_coordinates)
    yield from asyncio.run(look(place.bind(bind), asked))
    jumped_s = (time.time() - wall_s) - (time.monotonic() - steady_s)
    yield machine.clock(place.path, time.time(), jumped_s)


def _subject(run: str | None, folder: Path | None) -> tuple[RunFolder, Asked]:
    """Where the node lives, and whom it would ask."""
    from spikemesh.cli.doctor.network import Asked
    from spikemesh.codec import decode_ticket
    from spikemesh.node import address_of

    if run is None:
        return RunFolder(folder or Path()), Asked(run_id=None)
    if Path(run).is_dir():
        place = RunFolder.existing(Path(run))
        return place, Asked(
            run_id=_run_id(place),
            peers=place.peers(),
            buckets=place.buckets(),
            relay_url=place.relay(),
            may_go_alone=True,
        )
    run_id, peer, named = decode_ticket(run)
    place = RunFolder(folder or Path("runs") / run_id.hex()[:12])
    if place.has_genesis and _run_id(place) not in (None, run_id):
        raise TicketError(f"{place.path} belongs to another run than this ticket. Choose another --folder.")
    buckets = tuple(dict.fromkeys((*place.buckets(), *named)))
    relay_url = parse_relay(peer.relay_url) or place.relay()
    return place, Asked(run_id=run_id, peers=(address_of(peer),), buckets=buckets, relay_url=relay_url)


def _run_id(place: RunFolder) -> bytes | None:
    """None if the genesis is damaged, which is a finding of its own."""
    return None if isinstance(machine.genesis(place), Finding) else place.run_id()


def _print(findings: list[Finding]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        mark, colour = MARKS[finding.state]
        text = shown(finding.seen) + (f"\n{shown(finding.advice)}" if finding.advice else "")
        table.add_row(Text(mark, style=colour), Text(shown(finding.name)), Text(text))
    Console().print(table)
