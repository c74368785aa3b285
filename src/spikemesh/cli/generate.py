"""`spikemesh generate`: sample text from the merged model of a run's folder, or from a model file."""

from __future__ import annotations

import codecs
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from spikemesh.cli.model import Tensors, read_model
from spikemesh.cli.progress import shown_progress

if TYPE_CHECKING:
    from spikemesh.snn import EventEngine, ModelConfig, SpikingLM


class WeightFormat(StrEnum):
    """How each synapse's weight is kept while text is written."""

    FLOAT = "float"
    INT8 = "int8"
    INT4 = "int4"


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out nats per byte of the model as it is, and with its weights rounded."""

    float_weights: float
    rounded_weights: float | None


def generate(
    source: Annotated[Path, typer.Argument(help="The folder of a run that you take part in, or a model file.")],
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = "def ",
    length: Annotated[int, typer.Option(min=1, help="Bytes to write.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest byte.")] = 0.7,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    weights: Annotated[
        WeightFormat, typer.Option(help="Round the weights to 8 or 4 bits, with a scale for each neuron.")
    ] = WeightFormat.FLOAT,
    loss: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Also measure the loss on the held-out part of this text, a file or folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Write text with the merged model, one byte at a time; the state does not grow with the text."""
    config, tensors = read_model(source)
    model = _model(config, tensors, weights)
    from spikemesh.snn import sample

    written = sample(model, prompt.encode(), num_bytes=length, temperature=temperature, seed=seed)
    if as_json:
        answer: dict[str, object] = {"prompt": prompt, "text": bytes(written).decode(errors="replace")}
        if loss is not None:
            answer["loss"] = _losses(config, tensors, weights, loss, hidden=True)
        print(msgspec.json.encode(answer).decode())
        return
    print(prompt, end="", flush=True)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for byte in written:
        print(decoder.decode(bytes([byte])), end="", flush=True)
    print(decoder.decode(b"", final=True))
    if loss is not None:
        print(flush=True)
        _print_losses(_losses(config, tensors, weights, loss, hidden=False), weights)


def _model(config: ModelConfig, tensors: Tensors, weights: WeightFormat) -> SpikingLM | EventEngine:
    """Event by event where the kernels are compiled; torch where they are not, unless weights are to be rounded."""
    from spikemesh.kernels import native

    if native is None and weights is WeightFormat.FLOAT:
        from spikemesh.snn import model_from_dense

        return model_from_dense(config, tensors)
    from spikemesh.snn import EventEngine

    return EventEngine(config, tensors, weights=weights.value)


def _losses(config: ModelConfig, tensors: Tensors, weights: WeightFormat, data: Path, *, hidden: bool) -> Losses:
    from spikemesh.snn import EventEngine, engine_loss
    from spikemesh.train import HELD_OUT_BYTES, WINDOW_TOKENS, Corpus, held_out_windows

    text = Corpus.load(data).held_out_text
    windows = held_out_windows(text, num_bytes=HELD_OUT_BYTES, num_tokens=WINDOW_TOKENS)
    formats = dict.fromkeys([WeightFormat.FLOAT, weights])
    with shown_progress(hidden=hidden) as progress:
        measured = {
            kind: engine_loss(EventEngine(config, tensors, weights=kind.value), windows, progress) for kind in formats
        }
    rounded = None if weights is WeightFormat.FLOAT else measured[weights]
    return Losses(float_weights=measured[WeightFormat.FLOAT], rounded_weights=rounded)


def _print_losses(losses: Losses, weights: WeightFormat) -> None:
    print(f"held-out loss, nats per byte: {losses.float_weights:.4f}", end="")
    if losses.rounded_weights is not None:
        difference = losses.rounded_weights - losses.float_weights
        print(f" with float weights, {losses.rounded_weights:.4f} ({difference:+.4f}) with {weights.value}", end="")
    print()
