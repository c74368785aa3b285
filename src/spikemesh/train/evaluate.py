"""Held-out loss: one number, in nats per byte, on fixed windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from spikemesh.progress import SILENT, Progress
from spikemesh.snn import SpikingLM
from spikemesh.train.data import Corpus, held_out_windows
from spikemesh.train.inner import next_byte_loss

HELD_OUT_BYTES = 200_000
WINDOW_TOKENS = 1024
"""Longer than a training window: the state carried along the token axis has to hold up."""
_ROWS = 16


def held_out_loss(model: SpikingLM, corpus: Corpus, progress: Progress = SILENT) -> float:
    """Nats per byte over about 200,000 held-out bytes, the same ones every time."""
    windows = held_out_windows(corpus.held_out_text, num_bytes=HELD_OUT_BYTES, num_tokens=WINDOW_TOKENS)
    return loss_on(model, windows, progress)


def loss_on(model: SpikingLM, windows: npt.NDArray[np.int64], progress: Progress = SILENT) -> float:
    """Mean nats per byte over `windows` [W, L + 1]; every window starts from a model at rest."""
    total = 0.0
    progress.begin("measuring the held-out loss", len(windows), "windows")
    with torch.no_grad():
        for start in range(0, len(windows), _ROWS):
            rows = windows[start : start + _ROWS]
            total += next_byte_loss(model, torch.from_numpy(rows)).item() * len(rows)
            progress.advance(len(rows))
    return total / len(windows)
