"""The command line. One file per verb; the only room that wires the others together.

Nothing here imports torch before a verb needs it, so `spikemesh --help` answers at once.
"""

from __future__ import annotations

import sys

import typer

from spikemesh.cli.demo import demo
from spikemesh.cli.exits import EXIT_CODES_HELP, exit_code, first_error
from spikemesh.cli.generate import generate
from spikemesh.cli.init import init
from spikemesh.cli.inspect import inspect
from spikemesh.cli.join import join
from spikemesh.cli.merge import merge
from spikemesh.cli.status import status
from spikemesh.cli.verify import verify

app = typer.Typer(
    name="spikemesh",
    help="Train one large sparse spiking language model together, without a cluster or a server.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (demo, init, join, status, generate, merge, inspect, verify):
    app.command()(verb)


def main() -> None:
    """Run one command; every expected failure ends in one sentence on stderr and an exit code of the table."""
    try:
        app()
    except (Exception, ExceptionGroup, KeyboardInterrupt) as error:  # the top of the CLI
        known = first_error(error)
        if known is None:
            raise
        if str(known):
            print(f"spikemesh: {known}", file=sys.stderr)
        sys.exit(exit_code(known))
