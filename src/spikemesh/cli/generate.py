"""`spikemesh generate`: sample text from the merged model of a run's folder, or from a model file."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from spikemesh.cli.folder import RunFolder
from spikemesh.cli.model import load_model, load_model_file

if TYPE_CHECKING:
    from spikemesh.snn import SpikingLM


def generate(
    source: Annotated[Path, typer.Argument(help="The folder of a run that you take part in, or a model file.")],
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = "def ",
    length: Annotated[int, typer.Option(min=1, help="Bytes to write.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest byte.")] = 0.7,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Write text with the merged model, one byte at a time; the state does not grow with the text."""
    model = _model(source)
    from spikemesh.snn import sample

    written = sample(model, prompt.encode(), num_bytes=length, temperature=temperature, seed=seed)
    if as_json:
        print(msgspec.json.encode({"prompt": prompt, "text": bytes(written).decode(errors="replace")}).decode())
        return
    print(prompt, end="", flush=True)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for byte in written:
        print(decoder.decode(bytes([byte])), end="", flush=True)
    print(decoder.decode(b"", final=True))


def _model(source: Path) -> SpikingLM:
    if source.is_file():
        return load_model_file(source)
    run = RunFolder.existing(source)
    return load_model(run.model_path, run.genesis())
