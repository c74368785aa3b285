"""The merged model as a file: plain safetensors with every weight in full, zeros where there is no synapse.

The file says what model it is, so it can be read back, merged with others or not, without the run's folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spikemesh.codec import read_metadata, read_tensor_file, read_weights, write_tensors
from spikemesh.crdt import Genesis
from spikemesh.errors import InvalidData, TicketError
from spikemesh.files import write_file_atomic
from spikemesh.progress import SILENT, Progress

if TYPE_CHECKING:
    from spikemesh.snn import ModelConfig, SpikingLM
    from spikemesh.train import CalibrationReport

Tensors = Mapping[str, npt.NDArray[Any]]

CALIBRATED_KEY = "spikemesh.calibrated"
"""In a file's metadata: the factor on the thresholds of each population, as JSON."""


def build_model(genesis: Genesis, start: Tensors) -> SpikingLM:
    """The run's model with the weights it started with. `InvalidData` if start and genesis do not fit together."""
    from spikemesh.snn import Layout, ModelConfig, model_from_tensors, prefers_sparse

    model = model_from_tensors(ModelConfig.from_dict(genesis.model), start, sparse=prefers_sparse())
    layout = [(t.name, t.shape, t.num_coordinates, t.masked) for t in Layout.of(model).tensors]
    if layout != [(t.name, t.shape, t.num_coordinates, t.masked) for t in genesis.tensors]:
        raise InvalidData("the run's layout is not that of its model: the genesis was made by another version")
    return model


def save_model(path: Path, genesis: Genesis, start: Tensors, theta: npt.NDArray[np.float32], digest: bytes) -> None:
    """Write the merged weights `theta` [A] as a model file, with the digest of the sum it was made from."""
    from spikemesh.snn import Layout, dense_tensors, model_metadata

    model = build_model(genesis, start)
    Layout.of(model).scatter_(model, theta)
    metadata = {"digest": digest.hex(), **model_metadata(model.config)}
    write_file_atomic(path, write_tensors(dense_tensors(model), metadata=metadata))


def read_model(source: Path) -> tuple[ModelConfig, Tensors]:
    """The model of a run's folder, or of any file that describes it: `save_model`'s, or a merge of such. No torch.

    `TicketError` if there is none, `InvalidData` if a file holds something else.
    """
    from spikemesh.snn import ModelConfig, config_from_file
    from spikemesh.snn.config import check_tensors

    if not source.is_file():
        from spikemesh.cli.folder import RunFolder  # loads the network's rooms

        run = RunFolder.existing(source)
        if not run.model_path.is_file():
            raise TicketError(
                f"{run.model_path} is not there yet: it appears a minute after a volunteer has started in this folder."
            )
        return ModelConfig.from_dict(run.genesis().model), read_tensor_file(run.model_path.read_bytes())
    data = source.read_bytes()
    try:
        tensors = read_weights(data)
        config = config_from_file(tensors, read_metadata(data))
        check_tensors(config, tensors)
    except InvalidData as error:
        raise InvalidData(f"{source} holds no model that can be used: {error}") from error
    return config, tensors


def load_model(path: Path, genesis: Genesis) -> SpikingLM:
    """The model that `save_model` wrote."""
    from spikemesh.snn import ModelConfig, model_from_dense, prefers_sparse

    if not path.is_file():
        raise TicketError(f"{path} is not there yet: it appears a minute after a volunteer has started in this folder.")
    tensors = read_tensor_file(path.read_bytes())
    return model_from_dense(ModelConfig.from_dict(genesis.model), tensors, sparse=prefers_sparse())


def load_model_file(path: Path) -> SpikingLM:
    """The model of `read_model`, as a module."""
    from spikemesh.snn import model_from_dense, prefers_sparse

    return model_from_dense(*read_model(path), sparse=prefers_sparse())


def calibrate_model_file(
    path: Path, parents: Mapping[Path, float], data: Path | None, progress: Progress = SILENT
) -> CalibrationReport:
    """Refit the thresholds in the merged model file `path`: to its parents' mean firing rates, by their weights, on
    training text of `data` (None: the standard library). Everything else in the file keeps its bits.

    Models are read one after the other. `InvalidData` if one of the files holds none of ours; `path` is then as it was.
    """
    from spikemesh.snn import dense_tensors, spike_rates
    from spikemesh.train import Corpus, calibrate, calibration_tokens, mean_rates

    tokens = calibration_tokens(Corpus.load(data).train_text)
    progress.begin("measuring firing rates", len(parents), "models")
    rates = []
    for parent in parents:
        rates.append(spike_rates(load_model_file(parent), tokens))
        progress.advance(1)
    model = load_model_file(path)
    report = calibrate(model, mean_rates(rates, list(parents.values())), tokens, progress=progress)
    factors = json.dumps({refit.name: refit.factor for refit in report.refits})
    metadata = read_metadata(path.read_bytes()) | {CALIBRATED_KEY: factors}
    write_file_atomic(path, write_tensors(dense_tensors(model), metadata))
    return report


def calibrated_thresholds(path: Path) -> frozenset[str]:
    """The tensors of a checkpoint that `calibrate_model_file` has refitted; none if it was not calibrated."""
    from spikemesh.checkpoint import open_checkpoint

    with closing(open_checkpoint(path)) as checkpoint:
        text = checkpoint.metadata.get(CALIBRATED_KEY, "{}")
    try:
        return frozenset(f"{population}.threshold" for population in json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidData(
            f"expected JSON under {CALIBRATED_KEY!r} in the metadata of {path}, got {text:.100}"
        ) from error
