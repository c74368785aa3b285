"""The command line. One file per verb; the only room that wires the others together.

Only the verb that is asked for is loaded, and no verb loads torch before it needs it: help answers at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from spikemesh import __version__
from spikemesh.cli.exits import EXIT_CODES_HELP, exit_code, first_error
from spikemesh.cli.names import shown

VERBS = (
    "demo",
    "init",
    "join",
    "status",
    "doctor",
    "generate",
    "export",
    "merge",
    "unmerge",
    "verify",
    "inspect",
    "simulate",
)
"""In the order of the help. Each is a function of that name in the module of that name."""

PLAIN_VERBS = ("generate", "export", "merge", "unmerge", "verify", "inspect", "simulate")
"""These multiply no matrices. NumPy's BLAS would start threads for it, which spin where other work is to be done."""


def build_app(verb: str | None = None) -> typer.Typer:
    """The command line with one verb loaded, or, without a known one, with all of them."""
    app = typer.Typer(
        name="spikemesh",
        help="Train one large sparse spiking language model together, without a cluster or a server.",
        epilog=EXIT_CODES_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_whole)
    for name in (verb,) if verb in VERBS else VERBS:
        app.command()(getattr(import_module(f"spikemesh.cli.{name}"), name))
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print(f"spikemesh {__version__}")
        raise typer.Exit


def _whole(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """What comes before the verb. It also keeps one verb alone a verb; typer would make it the whole command line."""


def main() -> None:
    """Run one command; every expected failure ends in one sentence on stderr and an exit code of the table."""
    verb = sys.argv[1] if len(sys.argv) > 1 else None
    if verb in PLAIN_VERBS:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        build_app(verb)()
    except (Exception, ExceptionGroup, KeyboardInterrupt) as error:  # the top of the CLI
        known = first_error(error)
        if known is None:
            raise
        if str(known):
            text = "\n".join(map(shown, str(known).split("\n")))  # it may quote a file from outside
            print(f"spikemesh: {text}", file=sys.stderr)
        sys.exit(exit_code(known))
