"""`spikemesh init`: describe a new run, make its start, and found a node's folder for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich import print as show

from spikemesh.cli.folder import RunFolder
from spikemesh.cli.presets import PRESET_OPTION, find_preset
from spikemesh.cli.progress import shown_progress
from spikemesh.errors import TicketError
from spikemesh.progress import SILENT, Progress

if TYPE_CHECKING:
    from spikemesh.snn import ModelConfig
    from spikemesh.store import Store
    from spikemesh.store.writer import BlobWriter

BUCKET_OPTION: Any = typer.Option(
    help="A folder all can reach: a path on a shared disk, or a URL such as s3://name/folder. Repeat it for more."
)

CALIBRATION_WINDOWS = 16
"""Training windows on which the start is calibrated."""


def init(
    folder: Annotated[Path, typer.Argument(help="A new folder; your node of the run will live there.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Text to calibrate on: .txt, .jsonl or a folder. Default: Python's own standard library."),
    ] = None,
    name: Annotated[str, typer.Option(help="What people call the run.")] = "spikemesh",
    preset: Annotated[str, PRESET_OPTION] = "demo",
    seed: Annotated[int, typer.Option(min=0, max=(1 << 64) - 1, help="The same seed gives the same start.")] = 0,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, max=1 << 20, help="Contributions of one volunteer after which the run ends. Default: the preset's."
        ),
    ] = None,
    bucket: Annotated[list[str] | None, BUCKET_OPTION] = None,
) -> None:
    """Create a run: its model, its rules and its start. `spikemesh join FOLDER` then starts its first node."""
    run = RunFolder(folder)
    if run.has_genesis:
        raise TicketError(
            f"{folder} already holds a run. Start its node with `spikemesh join {folder}`, or choose another folder."
        )
    buckets = bucket_urls(bucket)
    with shown_progress() as progress:
        create_run(run, data=data, name=name, preset=preset, seed=seed, rounds=rounds, progress=progress)
    run.add_buckets(buckets)
    show(f"run [bold]{run.run_id().hex()}[/bold] in {folder}")
    show(f"start its first node with: spikemesh join {folder}")
    if buckets:
        print(f"ticket {asyncio.run(_put_into_buckets(run))}")


def bucket_urls(given: list[str] | None) -> tuple[str, ...]:
    """The buckets as they are kept: paths made absolute; an error about the arguments for one that is none."""
    from spikemesh.transport.bucket import Bucket

    urls = tuple(url if "://" in url else str(Path(url).absolute()) for url in given or ())
    for url in urls:
        try:
            Bucket(url)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--bucket") from error
    return urls


async def _put_into_buckets(run: RunFolder) -> str:
    """Put the run's description and start where others can get them with no node running; returns their ticket."""
    from spikemesh.cli.session import make_ticket, open_bucket
    from spikemesh.node import Identity
    from spikemesh.store import Store
    from spikemesh.transport import PeerAddress

    genesis = run.genesis()
    with Store.open(run.path, create=False) as store:
        founder = Identity.load_or_create(run.path)
        for url in run.buckets():
            await open_bucket(url, run.run_id()).found(
                genesis, lambda: asyncio.to_thread(store.blobs.get, genesis.init_hash)
            )
    return make_ticket(run, PeerAddress(id=founder.id))


def create_run(
    run: RunFolder,
    *,
    data: Path | None,
    name: str,
    preset: str,
    seed: int,
    rounds: int | None = None,
    progress: Progress = SILENT,
) -> None:
    """Write a complete node folder for a new run. The genesis comes last: with it, the run exists."""
    from spikemesh.crdt import Genesis, TensorSpec
    from spikemesh.node import Identity
    from spikemesh.snn import layout_tensors
    from spikemesh.store import Store
    from spikemesh.train import Corpus, spread_windows

    config, recipe = find_preset(preset)
    recipe = replace(recipe, num_rounds=rounds or recipe.num_rounds)
    text = Corpus.load(data).train_text
    sample = spread_windows(text, num_windows=CALIBRATION_WINDOWS, num_tokens=recipe.num_tokens)
    with Store.open(run.path) as store:
        identity = Identity.load_or_create(run.path)
        start = put_start(store, config, sample, seed=seed, progress=progress)
        run.set_genesis(
            Genesis(
                name=name,
                founder=identity.id,
                model=config.to_dict(),
                recipe=recipe.to_dict(),
                tensors=tuple(TensorSpec(t.name, t.shape, t.num_coordinates, t.masked) for t in layout_tensors(config)),
                init_hash=start,
                init_bytes=store.blobs.size(start),
            )
        )


def put_start(
    store: Store,
    config: ModelConfig,
    sample: npt.NDArray[np.int64],
    *,
    seed: int,
    progress: Progress = SILENT,
    num_threads: int | None = None,
) -> bytes:
    """Make a run's start, settled on `sample` [B, L], and keep it as a blob; returns its hash.

    It goes to the disk as it is made. The same bytes on any machine and any number of threads (None: all cores).
    """
    from spikemesh.codec import TensorFile
    from spikemesh.snn import start_shapes, write_start

    file = TensorFile.of(start_shapes(config))
    with store.blobs.writing(file.num_bytes) as blob:
        blob.write(0, file.header)
        write_start(
            config,
            sample,
            seed=seed,
            sink=_StartFile(blob, file.offsets),
            num_threads=num_threads or len(os.sched_getaffinity(0)),
            progress=progress,
        )
    return blob.digest


@dataclass(frozen=True)
class _StartFile:
    """Tensors that come piece by piece, at their places in a blob."""

    blob: BlobWriter
    offsets: Mapping[str, int]

    def put(self, name: str, first: int, values: npt.NDArray[Any]) -> None:
        self.blob.write(self.offsets[name] + first * values.itemsize, values.data)
