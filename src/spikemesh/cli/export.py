"""`spikemesh export`: a model for other tools, as plain tensors or as a graph of the NIR."""

from __future__ import annotations

import io
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikemesh.cli.model import Tensors, read_model
from spikemesh.cli.progress import shown_progress
from spikemesh.codec import write_tensors
from spikemesh.errors import CheckpointError
from spikemesh.files import write_file_atomic

if TYPE_CHECKING:
    from spikemesh.snn import ModelConfig


class Format(StrEnum):
    SAFETENSORS = "safetensors"
    NIR = "nir"
    NIR_CORE = "nir-core"


SAYS = {
    Format.SAFETENSORS: "every weight in full, zeros where there is no synapse; the metadata describes the model",
    Format.NIR: (
        "the whole model; a byte comes in as a spike on one of 256 lines, the logits of the next one go out. What only "
        "training needs, the shape of the surrogate gradient, has no words in NIR and is left out"
    ),
    Format.NIR_CORE: (
        "the spiking core, from input currents to spikes. Embedding, delays and readout are left out, as most "
        "importers cannot take them: export those as safetensors"
    ),
}
"""What is in the file, and what is not."""


def export(
    source: Annotated[Path, typer.Argument(help="The folder of a run that you take part in, or a model file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="safetensors: plain tensors. nir: the model as a NIR graph. nir-core: its spiking core in the few "
            "kinds of nodes that every importer takes, such as SpikingJelly's.",
        ),
    ] = Format.SAFETENSORS,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is already there.")] = False,
) -> None:
    """Write a model as a file for other tools."""
    if out.is_dir() or (out.exists() and not force):
        raise CheckpointError(f"{out} is already there. Choose another name, or replace a file with --force.")
    with shown_progress() as progress:
        progress.begin(f"reading {source.name}", 0)
        config, tensors = read_model(source)
        progress.begin(f"writing {out.name}", 0)
        write_file_atomic(out, _file(form, config, tensors))
    print(f"{out}: {SAYS[form]}.")


def _file(form: Format, config: ModelConfig, tensors: Tensors) -> bytes:
    from spikemesh.snn import model_metadata

    if form is Format.SAFETENSORS:
        return write_tensors(tensors, model_metadata(config))
    from spikemesh.snn.nir_graph import nir_core, nir_graph

    graph = (nir_core if form is Format.NIR_CORE else nir_graph)(config, tensors)
    import nir  # the graph is there, so the package is

    data = io.BytesIO()
    nir.write(data, graph)
    return data.getvalue()
