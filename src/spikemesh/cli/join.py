"""`spikemesh join`: take part in a run as a volunteer, or go on where you left."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.logging import RichHandler

from spikemesh.allocator import keep_freed_memory
from spikemesh.cli.folder import RunFolder
from spikemesh.cli.init import BUCKET_OPTION, bucket_urls
from spikemesh.cli.model import build_model, save_model
from spikemesh.codec import decode_ticket
from spikemesh.errors import TicketError
from spikemesh.node import address_of
from spikemesh.transport import PeerAddress

if TYPE_CHECKING:
    from spikemesh.cli.session import Session
    from spikemesh.node import Volunteer

Contact = tuple[bytes, PeerAddress]
"""(run id, where to find one of its nodes)."""

MODEL_PERIOD_S = 60.0
MAX_RELAY_CHARS = 200
"""What iroh makes of it must fit into the 256 of a ticket."""


def parse_bind(text: str) -> str:
    """`text` itself if it is an address to listen on, ip:port."""
    host, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise typer.BadParameter(f"expected ip:port such as 127.0.0.1:0, got {text!r}") from error
    if not port.isdecimal() or int(port) > 65_535:
        raise typer.BadParameter(f"expected a port of 0..65535 after the last colon, got {text!r}")
    return text


def parse_relay(text: str | None) -> str | None:
    """`text` itself if it is where a relay can be, http(s)://host or with a port; None stays None.

    Nothing else may be in it: it goes into tickets, so it must not hold a key.
    """
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        plain = parts.hostname and parts.port != 0 and "@" not in parts.netloc and parts.path in ("", "/")
    except ValueError:
        plain = False
    if not plain or parts.scheme not in ("http", "https") or len(text) > MAX_RELAY_CHARS or set("?# ") & set(text):
        raise typer.BadParameter(
            f"expected a relay as http(s)://host or http(s)://host:port, with nothing behind it, got {text!r}",
            param_hint="--relay",
        )
    return text


def join(
    run: Annotated[str, typer.Argument(help="A ticket, or the folder of a run you made or joined before.")],
    folder: Annotated[Path | None, typer.Option(help="Where your node lives. Default: runs/ and the run's id.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Your training text: .txt, .jsonl or a folder. Default: Python's own standard library."),
    ] = None,
    shard: Annotated[str, typer.Option(help="Which part of the text: 2/4 is the second quarter.")] = "1/1",
    seed: Annotated[int, typer.Option(help="Order of the training text.")] = 0,
    bind: Annotated[
        str, typer.Option(help="ip:port to listen on; port 0 takes any.", callback=parse_bind)
    ] = "0.0.0.0:0",
    threads: Annotated[int, typer.Option(help="Processor threads for training; 0 leaves it to torch.")] = 0,
    bucket: Annotated[list[str] | None, BUCKET_OPTION] = None,
    relay: Annotated[
        str | None,
        typer.Option(
            help="http(s)://host:port of a relay, for volunteers who cannot dial each other. Default: the ticket's, "
            "else the one you used before.",
            callback=parse_relay,
        ),
    ] = None,
    keep_gb: Annotated[
        float | None,
        typer.Option(
            min=0, help="GB of the newest deltas to keep for others; at most twice that is on the disk. Default: 4."
        ),
    ] = None,
    train: Annotated[bool, typer.Option(help="Train; --no-train only keeps and passes on.")] = True,
    verbose: Annotated[bool, typer.Option(help="Say more.")] = False,
    leave_at_eof: Annotated[
        bool, typer.Option("--leave-at-eof", help="Leave when standard input closes: for programs that start nodes.")
    ] = False,
) -> None:
    """Train together with others. Ctrl-C leaves; the same command goes on where you left."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(show_path=False)],
    )
    part = parse_shard(shard)
    contact, buckets = None, bucket_urls(bucket)
    if Path(run).is_dir():
        place = RunFolder.existing(Path(run))
    else:
        run_id, peer, named = decode_ticket(run)
        contact = run_id, address_of(peer)
        relay = relay or parse_relay(peer.relay_url)
        buckets = (*buckets, *named)
        place = RunFolder(folder or Path("runs") / contact[0].hex()[:12])
        if place.has_genesis and place.run_id() != contact[0]:
            raise TicketError(f"{place.path} belongs to another run than this ticket. Choose another --folder.")
    place.add_buckets(buckets)
    if relay is not None:
        place.set_relay(relay)
    keep_bytes = None if keep_gb is None else int(keep_gb * 1e9)
    if train:
        keep_freed_memory()  # before the network starts its threads
    learner = (lambda session: _volunteer(session, data, part, seed, threads)) if train else None
    asyncio.run(_join(place, contact, bind=bind, keep_bytes=keep_bytes, learner=learner, leave_at_eof=leave_at_eof))


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/4" -> (1, 4): index from 0, and how many there are."""
    first, _, last = text.partition("/")
    if first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last):
        return int(first) - 1, int(last)
    raise typer.BadParameter(f"a shard is written as 2/4 for the second quarter, got {text!r}", param_hint="--shard")


async def _join(
    place: RunFolder,
    contact: Contact | None,
    *,
    bind: str,
    keep_bytes: int | None,
    learner: Callable[[Session], Volunteer] | None,
    leave_at_eof: bool,
) -> None:
    from spikemesh.cli.session import open_session

    if contact is not None and not place.has_genesis:
        print(f"asking peer {contact[1]} for the run", flush=True)
    tell = partial(print, flush=True)
    async with open_session(place, contact=contact, bind=bind, keep_bytes=keep_bytes, tell=tell) as session:
        print(f"run    {session.node.ledger.run_id.hex()}")
        print(f"node   {session.node.id.hex()}")
        if (relay := session.node.transport.address.relay_url) is not None:
            print(f"relay  {relay}")
        print(f"ticket {session.ticket}", flush=True)
        await _until_told_to_leave(_take_part(session, contact, learner), at_eof=leave_at_eof)
        if learner is not None:
            await asyncio.to_thread(export_model, session)
        replica = session.node.ledger.replica
        print(f"left with {len(replica.records.visible)} contributions, digest {replica.sum.digest.hex()}")


async def _take_part(session: Session, contact: Contact | None, learner: Callable[[Session], Volunteer] | None) -> None:
    """Run the node until cancelled. Whatever the disk raises ends it; peers cannot."""
    from spikemesh.cli.session import enter_run

    async with asyncio.TaskGroup() as group:
        group.create_task(session.node.run())
        if not await enter_run(session, contact):
            print("nobody else answers yet; going on alone and listening", flush=True)
        session.tell(None)
        volunteer = await asyncio.to_thread(learner, session) if learner is not None else None
        group.create_task(session.tell_forever(volunteer))
        if volunteer is not None:
            group.create_task(_export_forever(session))
            await volunteer.run()
            print("the run's rounds are done; still serving others, Ctrl-C to leave", flush=True)
            await asyncio.to_thread(export_model, session)
        await asyncio.Event().wait()


def _volunteer(session: Session, data: Path | None, shard: tuple[int, int], seed: int, threads: int) -> Volunteer:
    """The training side: imports torch, reads the text, builds the model from the run's start."""
    import torch

    from spikemesh.node import Plan, SystemClock, Volunteer, giving_way
    from spikemesh.snn import ModelConfig
    from spikemesh.train import Corpus, Recipe, Trainee

    if threads:
        torch.set_num_threads(threads)
    ledger = session.node.ledger
    recipe = Recipe.from_dict(ledger.genesis.recipe)
    build_model(ledger.genesis, session.start)  # says so if this version has another layout
    trainee = Trainee(
        ModelConfig.from_dict(ledger.genesis.model),
        recipe,
        session.start,
        Corpus.load(data).shard(*shard),
        seed=seed,
        grid_exponent=ledger.genesis.grid_exponent,
    )
    return Volunteer(
        node=session.node,
        identity=session.identity,
        trainee=trainee,
        plan=Plan(num_rounds=recipe.num_rounds, steps_per_round=recipe.steps_per_round),
        folder=session.folder.path,
        clock=SystemClock(),
        training=giving_way(),
    )


async def _export_forever(session: Session) -> None:
    while True:
        await asyncio.to_thread(export_model, session)
        await asyncio.sleep(MODEL_PERIOD_S)


def export_model(session: Session) -> None:
    ledger = session.node.ledger
    replica = ledger.replica
    save_model(session.folder.model_path, ledger.genesis, session.start, ledger.resolve(replica), replica.sum.digest)


async def _until_told_to_leave(work: Coroutine[None, None, None], *, at_eof: bool) -> None:
    """Run until done, or until Ctrl-C, SIGTERM or, if asked for, the end of standard input, which end it in order."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    if at_eof:

        def read() -> None:
            if not os.read(sys.stdin.fileno(), 4096):
                loop.remove_reader(sys.stdin)
                task.cancel()

        try:
            loop.add_reader(sys.stdin, read)
        except PermissionError:  # a file or /dev/null, which have nothing to wait for
            raise ValueError("--leave-at-eof needs a pipe or a terminal on standard input") from None
    with contextlib.suppress(asyncio.CancelledError):
        await task
