"""What counting alone achieves on the same held-out text: the floor under every claim about a model.

Byte unigram and bigram with additive smoothing (Lidstone), fitted on the training files, in nats per byte.
"""

from __future__ import annotations

import numpy as np

from spikemesh.snn import VOCAB
from spikemesh.train.data import Corpus

PSEUDO_COUNT = 0.05


def unigram_loss(corpus: Corpus) -> float:
    """Mean of -log p(byte) over the held-out text."""
    counts = np.bincount(corpus.train_text, minlength=VOCAB) + PSEUDO_COUNT
    return float(-np.log(counts / counts.sum())[corpus.held_out_text].mean())


def bigram_loss(corpus: Corpus) -> float:
    """Mean of -log p(byte | the byte before it) over the held-out text."""
    counts = np.bincount(_pairs(corpus.train_text), minlength=VOCAB * VOCAB).reshape(VOCAB, VOCAB) + PSEUDO_COUNT
    log_p = np.log(counts / counts.sum(axis=1, keepdims=True))
    return float(-log_p.reshape(-1)[_pairs(corpus.held_out_text)].mean())


def _pairs(text: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return text[:-1].astype(np.int32) * VOCAB + text[1:]
