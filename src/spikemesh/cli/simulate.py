"""`spikemesh simulate`: how a swarm fares in a story that went wrong elsewhere."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer
from rich import print as show
from rich.table import Table


def simulate(
    scenario: Annotated[str, typer.Option(help="One of those that --list names.")] = "chaos",
    nodes: Annotated[int | None, typer.Option(help="Without it, as many as the story was made for.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run, to the bit.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    as_list: Annotated[bool, typer.Option("--list", help="Name the scenarios and end.")] = False,
) -> None:
    """Run real nodes on a virtual clock and a simulated network, and check what they promise."""
    from spikemesh.sim import SCENARIOS
    from spikemesh.sim import simulate as run

    if as_list:
        _list({name: (known.num_nodes, known.text) for name, known in SCENARIOS.items()}, as_json)
        return
    try:
        with _quiet():
            outcome = run(scenario, num_nodes=nodes, seed=seed)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    facts = msgspec.to_builtins(outcome)
    if as_json:
        print(msgspec.json.encode(facts).decode())
        return
    told = facts.pop("facts")
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in {**facts, **told}.items():
        table.add_row(name.replace("_", " "), f"{value:.1f}" if isinstance(value, float) else str(value))
    show(table)
    print("Everybody who is up holds all that was acknowledged, each once, with one digest.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What nodes say of a bad network is the story itself, and not worth a warning."""
    log = logging.getLogger("spikemesh")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _list(scenarios: dict[str, tuple[int, str]], as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode({name: {"nodes": n, "text": text} for name, (n, text) in scenarios.items()}).decode())
        return
    table = Table("scenario", "nodes", "story")
    for name, (num_nodes, text) in scenarios.items():
        table.add_row(name, str(num_nodes), text)
    show(table)
