"""The merged model as a file: plain safetensors with every weight in full, zeros where there is no synapse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spikemesh.codec import read_tensor_file, write_tensors
from spikemesh.crdt import Genesis
from spikemesh.errors import InvalidData, TicketError
from spikemesh.store import write_file_atomic

if TYPE_CHECKING:
    from spikemesh.snn import SpikingLM

Tensors = Mapping[str, npt.NDArray[Any]]


def build_model(genesis: Genesis, start: Tensors) -> SpikingLM:
    """The run's model with the weights it started with. `InvalidData` if start and genesis do not fit together."""
    from spikemesh.snn import Layout, ModelConfig, model_from_tensors

    model = model_from_tensors(ModelConfig.from_dict(genesis.model), start)
    layout = [(t.name, t.shape, t.num_coordinates, t.masked) for t in Layout.of(model).tensors]
    if layout != [(t.name, t.shape, t.num_coordinates, t.masked) for t in genesis.tensors]:
        raise InvalidData("the run's layout is not that of its model: the genesis was made by another version")
    return model


def save_model(path: Path, genesis: Genesis, start: Tensors, theta: npt.NDArray[np.float32], digest: bytes) -> None:
    """Write the merged weights `theta` [A] as a model file, with the digest of the sum it was made from."""
    from spikemesh.snn import Layout, dense_tensors

    model = build_model(genesis, start)
    Layout.of(model).scatter_(model, theta)
    write_file_atomic(path, write_tensors(dense_tensors(model), metadata={"digest": digest.hex()}))


def load_model(path: Path, genesis: Genesis) -> SpikingLM:
    """The model that `save_model` wrote."""
    from spikemesh.snn import ModelConfig, model_from_dense

    if not path.is_file():
        raise TicketError(f"{path} is not there yet: it appears a minute after a volunteer has started in this folder.")
    return model_from_dense(ModelConfig.from_dict(genesis.model), read_tensor_file(path.read_bytes()))
