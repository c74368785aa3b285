"""Training at the edge: text, the inner loop, what an author publishes, held-out loss. No network."""

from spikemesh.train.calibrate import CalibrationReport, Refit, calibrate, calibration_tokens, mean_rates
from spikemesh.train.data import Bytes, Corpus, Document, batch, held_out_windows, spread_windows
from spikemesh.train.evaluate import HELD_OUT_BYTES, WINDOW_TOKENS, held_out_loss, loss_on
from spikemesh.train.inner import StepResult, make_optimiser, next_byte_loss, train_step
from spikemesh.train.ngram import bigram_loss, unigram_loss
from spikemesh.train.outer import OuterState, contribution_weight, outer_step
from spikemesh.train.recipe import Recipe
from spikemesh.train.trainee import StepStatistics, Trainee, Update

__all__ = [
    "HELD_OUT_BYTES",
    "WINDOW_TOKENS",
    "Bytes",
    "CalibrationReport",
    "Corpus",
    "Document",
    "OuterState",
    "Recipe",
    "Refit",
    "StepResult",
    "StepStatistics",
    "Trainee",
    "Update",
    "batch",
    "bigram_loss",
    "calibrate",
    "calibration_tokens",
    "contribution_weight",
    "held_out_loss",
    "held_out_windows",
    "loss_on",
    "make_optimiser",
    "mean_rates",
    "next_byte_loss",
    "outer_step",
    "spread_windows",
    "train_step",
    "unigram_loss",
]
