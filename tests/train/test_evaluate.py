"""The held-out loss is the mean over bytes, and the model's start knows nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from spikemesh.train import (
    Bytes,
    Corpus,
    Document,
    Trainee,
    bigram_loss,
    held_out_loss,
    held_out_windows,
    loss_on,
    unigram_loss,
)


def test_loss_is_the_mean_over_all_bytes(make_trainee: Callable[..., Trainee], text: Bytes) -> None:
    model = make_trainee().model
    windows = held_out_windows(text, num_bytes=20 * 64, num_tokens=64)
    assert len(windows) == 20, "more than one pass of rows, the last one not full"
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(windows[:, :-1]))
    log_p = torch.log_softmax(logits, 2).gather(2, torch.from_numpy(windows[:, 1:]).unsqueeze(2))
    assert loss_on(model, windows) == pytest.approx(-float(log_p.mean()), rel=1e-5)
    assert abs(loss_on(model, windows) - math.log(256)) < 0.3


def test_held_out_loss_is_deterministic(make_trainee: Callable[..., Trainee], text: Bytes) -> None:
    corpus = Corpus.of([Document("one.txt", bytes(np.tile(text, 1)[:60_000]))])
    model = make_trainee().model
    assert held_out_loss(model, corpus) == held_out_loss(model, corpus)


def test_counting_baselines_know_what_they_can() -> None:
    cycle = Corpus.of([Document("cycle.txt", bytes(range(16)) * 4000)])
    assert unigram_loss(cycle) == pytest.approx(math.log(16), abs=0.01)
    assert bigram_loss(cycle) == pytest.approx(0.0, abs=0.01)
    coin = bytes(np.random.default_rng(1).integers(0, 2, 80_000, dtype=np.uint8))
    assert bigram_loss(Corpus.of([Document("coin.txt", coin)])) == pytest.approx(math.log(2), abs=0.01)
