"""`spikemesh unmerge`: adapters out of a model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikemesh.allocator import return_freed_memory
from spikemesh.cli.adapters import say
from spikemesh.cli.merge import end_as_interrupted, parse_size
from spikemesh.cli.progress import shown_progress


def unmerge(
    merged: Annotated[Path, typer.Argument(help="What adapters were merged into.")],
    adapters: Annotated[list[Path], typer.Argument(help="The adapters to take out: folders as PEFT saves them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Ends in .safetensors: a file. Else a folder.")],
    base: Annotated[Path | None, typer.Option(help="The base, if it is not where this machine saw it last.")] = None,
    remainder: Annotated[
        Path | None, typer.Option(help="What merge --keep-remainder wrote; without this, the file beside MERGED.")
    ] = None,
    shard_size: Annotated[str | None, typer.Option(help="Cut the result into files of at most this, as 5GB.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Take adapters out of a model: bit for bit the merge of the others, or the base.

    Needs the remainder of the merge, or else its sources: the base and the adapters that stay, found by content.
    """
    end_as_interrupted()
    shard_bytes = None if shard_size is None else parse_size(shard_size)
    from spikemesh.checkpoint.adapters import unmerge as run

    return_freed_memory()
    with shown_progress(hidden=as_json) as progress:
        try:
            report = run(
                merged,
                adapters,
                out=out,
                base=base,
                remainder=remainder,
                shard_bytes=shard_bytes,
                force=force,
                progress=progress,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    say(report, as_json=as_json)
