"""A model file describes itself: the config lies beside the tensors, as JSON under one key of the file's metadata.

    write_tensors(dense_tensors(model), metadata=model_metadata(model.config))     # codec; any writer of safetensors
    model_from_file(read_tensor_file(data), read_metadata(data))

No file is opened here: what is read and written is arrays by name and a few strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from spikemesh.errors import InvalidData
from spikemesh.snn.config import ModelConfig

if TYPE_CHECKING:
    from spikemesh.snn.model import SpikingLM

MODEL_KEY = "spikemesh.model"
MAX_DESCRIPTION_BYTES = 1 << 16


def model_metadata(config: ModelConfig) -> dict[str, str]:
    """What to write beside `dense_tensors`, the same string for the same config."""
    return {MODEL_KEY: json.dumps(config.to_dict(), sort_keys=True, separators=(",", ":"))}


def model_from_file(
    tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str], *, sparse: bool = False
) -> SpikingLM:
    """The model that a file holds, see `model_from_dense`. `InvalidData` if the file does not describe or fit it."""
    from spikemesh.snn.layout import model_from_dense

    return model_from_dense(config_from_file(tensors, metadata), tensors, sparse=sparse)


def config_from_file(tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> ModelConfig:
    """What model a file holds. `InvalidData` if it does not say, or says one that is larger than what it holds."""
    config = _described(metadata)
    num_elements = sum(array.size for array in tensors.values())
    if config.num_weights > num_elements:  # before anything of the described size is allocated
        raise InvalidData(
            f"expected the {config.num_weights} weights that the file describes, got {num_elements}: it is another "
            "model's description"
        )
    return config


def _described(metadata: Mapping[str, str]) -> ModelConfig:
    text = metadata.get(MODEL_KEY)
    if text is None:
        raise InvalidData(
            f"expected a description of the model under {MODEL_KEY!r} in the file's metadata, got none. Files that "
            "spikemesh writes have one, and a merge keeps it if all its inputs have the same"
        )
    try:
        if len(text) > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"{len(text)} characters")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"expected JSON under {MODEL_KEY!r} in the file's metadata: {error!s:.100}") from error
    if not isinstance(values, dict):
        raise InvalidData(f"expected a JSON object under {MODEL_KEY!r}, got {type(values).__name__}")
    return ModelConfig.from_dict(values)
