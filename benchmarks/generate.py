"""One generated token: event by event, against the same model and an equally heavy one run dense in torch, on one core.

The model is the 140m preset at its start (143 million weights, 7 % of them synapses), its text the standard library's.
Three dense opponents, all in torch, all with their weights ready as plain matrices:

    same       the same model, a dense product for every weight matrix
    alive      a spiking network of the same depth with as many weights as ours has synapses, none of them zero
    products   nothing but the dense products and a ReLU of that network: the least that a dense one can do

A round times a few tokens of each contender in turn, in CPU time; what is reported is the median over rounds, with the
least and the largest. All of it once per instruction set that the machine has, torch limited alike (`sets`). What a
set does not change is measured with the best one: the loss on held-out text of a briefly trained demo model with
rounded weights, and how soon `spikemesh generate` answers.

    python benchmarks/generate.py --commit
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Report, Spread
from sets import INSTRUCTION_SETS, bar_in, per_set
from spikemesh.cli.presets import PRESET_NAMES, find_preset
from spikemesh.codec import write_tensors
from spikemesh.kernels import instruction_set
from spikemesh.snn import (
    EventEngine,
    ModelConfig,
    SpikingLM,
    dense_tensors,
    engine_loss,
    initialise,
    lif_step,
    model_metadata,
)
from spikemesh.snn.config import tensor_shapes
from spikemesh.snn.inference import WeightFormat
from spikemesh.train import Corpus, batch, held_out_windows, make_optimiser, train_step

FORMATS: tuple[WeightFormat, ...] = ("float", "int8", "int4")
SYNAPSE_BYTES = {"float": 6.0, "int8": 3.0, "int4": 2.5}
"""A weight and the index of its neuron."""
RATE = "spikes per neuron and token"
BATCHES = (1, 32)
WARM_TOKENS = 8
UNMODIFIED_ROUNDS = 5
"""It multiplies 143 million masks with weights for every token, and nothing is claimed of it."""
LOSS_BYTES = 100_000
Step = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]


class Dense:
    """The model in torch, one token at a time, every weight matrix as it would be without a mask."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, npt.NDArray[Any]], batch_size: int) -> None:
        self.config = config
        self._t = {name: torch.from_numpy(array) for name, array in tensors.items()}
        self._leaks = {name: torch.sigmoid(t) for name, t in self._t.items() if name.endswith("leak_logit")}
        self._v: dict[str, Tensor] = {}
        for name, values in self._leaks.items():
            self._v[name.rpartition(".")[0]] = torch.zeros(batch_size, len(values))
        self._tokens = torch.full((config.num_input_delays, batch_size), -1)
        self._sent = [torch.zeros(config.num_axon_delays, batch_size, config.width) for _ in range(config.num_blocks)]
        self._bounds = [config.width * k // config.num_axon_delays for k in range(config.num_axon_delays + 1)]
        self._clock = 0

    def __call__(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Tokens [B] -> logits [B, 256]."""
        config, t = self.config, self._t
        now = self._clock % config.num_input_delays
        self._tokens[now] = torch.from_numpy(tokens)
        u = t["delay_mix"][0] * F.embedding(self._tokens[now], t["embedding"])
        for k in range(1, config.num_input_delays):
            then = self._tokens[(self._clock - k) % config.num_input_delays]
            e = F.embedding(then.clamp_min(0), t["embedding"]) * (then >= 0).unsqueeze(1)
            u = u + t["delay_mix"][k] * e
        read = []
        for b in range(config.num_blocks):
            ring = self._sent[b]
            ring[self._clock % config.num_axon_delays] = self._fire(f"blocks.{b}.stream", u)
            late = [
                ring[(self._clock - k) % config.num_axon_delays][:, start:stop]
                for k, (start, stop) in enumerate(zip(self._bounds[:-1], self._bounds[1:], strict=True))
            ]
            x = F.linear(torch.cat(late, 1), t[f"blocks.{b}.w_in.weight"])
            hidden = self._fire(f"blocks.{b}.hidden", x)
            read.append(hidden)
            u = u + F.linear(hidden, t[f"blocks.{b}.w_out.weight"])
        x = F.linear(torch.cat([*read, self._fire("output", u)], 1), t["head.weight"])
        y = torch.addcmul(x, self._leaks["readout.leak_logit"], self._v["readout"])
        self._v["readout"] = y
        self._clock += 1
        return (y + t["readout.bias"]).numpy()

    def _fire(self, name: str, x: Tensor) -> Tensor:
        leak, threshold = self._leaks[f"{name}.leak_logit"], self._t[f"{name}.threshold"]
        spikes, self._v[name] = lif_step(x, self._v[name], leak, threshold)
        return spikes


class Products:
    """The dense products of a network alone, with a ReLU between them."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, npt.NDArray[Any]], batch_size: int) -> None:
        self._blocks = [
            [torch.from_numpy(tensors[f"blocks.{b}.{name}.weight"]) for name in ("w_in", "w_out")]
            for b in range(config.num_blocks)
        ]
        self._head = torch.from_numpy(tensors["head.weight"])
        self._x = torch.rand(batch_size, config.width)

    def __call__(self, _tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        u, read = self._x, []
        for w_in, w_out in self._blocks:
            read.append(F.linear(u, w_in).relu_())
            u = F.linear(read[-1], w_out).relu_()
        return F.linear(torch.cat([*read, u], 1), self._head).numpy()


class Unmodified:
    """`SpikingLM` as it trains: it multiplies weights and masks at every call."""

    def __init__(self, model: SpikingLM) -> None:
        self._model, self._state = model, None

    def __call__(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            logits, self._state = self._model(torch.from_numpy(tokens)[:, None], self._state)
        return logits[:, 0].numpy()


@dataclass
class Contender:
    step: Step
    tokens_per_round: int
    seconds: list[float]
    """Per token of one text, one entry per round."""
    rounds: int = 1 << 30
    """At most so many, for one that takes long."""


def race(contenders: Mapping[str, Contender], texts: npt.NDArray[np.int64], num_rounds: int) -> None:
    """`texts` [B, L]: everybody reads the same tokens."""
    for contender in contenders.values():
        for token in texts.T[: min(WARM_TOKENS, contender.rounds)]:
            contender.step(token)
    for round_number in range(num_rounds):
        for contender in contenders.values():
            if round_number >= contender.rounds:
                continue
            first = WARM_TOKENS + round_number * contender.tokens_per_round
            tokens = [texts[:, at % texts.shape[1]].copy() for at in range(first, first + contender.tokens_per_round)]
            start = time.process_time()
            for token in tokens:
                contender.step(token)
            contender.seconds.append((time.process_time() - start) / (len(tokens) * len(texts)))


def alive_config(config: ModelConfig, num_alive: int) -> ModelConfig:
    """The same depth and proportions, no zeros, and at least as many weights as there are synapses, hardly more."""
    scale = (num_alive / config.num_weights) ** 0.5
    small = replace(config, width=round(config.width * scale), hidden=round(config.hidden * scale), density=1.0)
    while small.num_weights > num_alive:
        small = replace(small, hidden=small.hidden - 1)
    return replace(small, hidden=small.hidden + 1)


def random_tensors(config: ModelConfig) -> dict[str, npt.NDArray[np.float32]]:
    """Weights for speed alone; thresholds near which membranes are."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        fan_in = shape[-1] if name.endswith(".weight") else 1
        tensors[name] = (rng.standard_normal(shape) / fan_in**0.5).astype(np.float32)
    return tensors


def speed(report: Report, config: ModelConfig, corpus: Corpus, num_rounds: int) -> None:
    sample = batch(corpus.train_text, seed=0, step=0, batch_size=4, num_tokens=128)[:, :-1]
    model = initialise(config, sample, seed=0)
    tensors = dense_tensors(model)
    num_alive = sum(int(np.count_nonzero(array)) for name, array in tensors.items() if name.endswith(".weight"))
    small = alive_config(config, num_alive)
    small_tensors = random_tensors(small)
    engines = {kind: EventEngine(config, tensors, weights=kind) for kind in FORMATS}
    report.fact("preset.weights", config.num_weights, "dense-equivalent weights", against="")
    report.fact("preset.synapses", num_alive, "weights", against=f"{num_alive / config.num_weights:.1%} of them")
    report.fact("alive.weights", small.num_weights, "weights", against=f"width {small.width}, hidden {small.hidden}")
    held_out = corpus.held_out_text
    for batch_size in BATCHES:
        length = min(4096, len(held_out) // batch_size)
        texts = held_out[: batch_size * length].reshape(batch_size, length).astype(np.int64)
        sessions = {kind: engine.session(batch_size) for kind, engine in engines.items()}
        same = Dense(config, tensors, batch_size)
        steps: dict[str, Step] = {kind: session.step for kind, session in sessions.items()}
        steps |= {"same": same, "unmodified": Unmodified(model)}
        steps |= {
            "alive": Dense(small, small_tensors, batch_size),
            "products": Products(small, small_tensors, batch_size),
        }
        slow = {"same", "unmodified"}
        counts = {name: 1 if name in slow else 20 if batch_size == 1 else 5 for name in steps}
        contenders = {name: Contender(step, counts[name], []) for name, step in steps.items()}
        contenders["unmodified"].rounds = UNMODIFIED_ROUNDS
        check = abs(
            engines["float"].session(batch_size).step(texts[:, 0]) - Dense(config, tensors, batch_size)(texts[:, 0])
        )
        assert float(np.median(check)) < 1e-4, "the dense opponent is another model"
        race(contenders, texts, num_rounds)
        _report_speed(report, batch_size, {name: contender.seconds for name, contender in contenders.items()})
        if batch_size == 1:
            _report_bytes(report, config, engines, sessions["float"].rates())
    for kind, engine in engines.items():
        report.fact(f"{kind}.memory", engine.num_bytes / 1e6, "MB of synapses, both directions", against="")
    report.fact("dense.memory", 4 * config.num_weights / 1e6, "MB of weights", against="the same model, dense")


def _report_speed(report: Report, batch_size: int, seconds: Mapping[str, Sequence[float]]) -> None:
    for name, values in seconds.items():
        ms = Spread.of([1000 * each for each in values])
        report.fact(f"batch{batch_size}.{name}", ms, "ms per token and text", against="")
    fastest = min(("alive", "products"), key=lambda name: statistics.median(seconds[name]))
    for kind in FORMATS:
        own, place = seconds[kind], f"batch{batch_size}.{kind}"
        claimed = kind == "float" and batch_size == 1
        for name, opponent, bar, against in (
            ("same", "same", 5.0, "the same model, dense in torch"),
            (
                "alive",
                fastest,
                1.5,
                "a dense network in torch with as many weights as ours has synapses; the faster of two",
            ),
        ):
            ratio = Spread.of_ratios(seconds[opponent], own)
            report.at_least(
                f"{place}.over_{name}",
                ratio,
                "times as fast",
                bar=bar_in(report, bar) if claimed else None,
                against=against,
            )


def _report_bytes(
    report: Report, config: ModelConfig, engines: Mapping[WeightFormat, EventEngine], rates: Mapping[str, float]
) -> None:
    sizes = {name: config.hidden if name.endswith("hidden") else config.width for name in rates}
    mean = sum(rates[name] * sizes[name] for name in rates) / sum(sizes.values())
    report.fact(
        "preset.rate", mean, "spikes per neuron and token", against=f"at its start, aimed at {config.target_rate}"
    )
    report.fact("preset.rate.lowest", min(rates.values()), "spikes per neuron and token", against="of a population")
    report.fact("preset.rate.highest", max(rates.values()), "spikes per neuron and token", against="of a population")
    for kind, engine in engines.items():
        fan_outs = engine.fan_outs()
        synapses = sum(rates[name] * sizes[name] * fan_outs[name] for name in rates)
        if kind == "float":
            report.fact("preset.additions", synapses, "synapses per token", against="one addition each")
        report.fact(f"{kind}.bytes", SYNAPSE_BYTES[kind] * synapses / 1e6, "MB of synapses read per token", against="")
    report.fact("neurons.bytes", 16 * sum(sizes.values()) / 1e6, "MB of neurons per token", against="every format")
    report.fact("dense.bytes", 4 * config.num_weights / 1e6, "MB of weights read per token", against="same, dense")


def rounding(report: Report, corpus: Corpus, num_steps: int) -> SpikingLM:
    """Held-out loss of a briefly trained demo model with its weights as they are, and rounded."""
    config, recipe = find_preset("demo")
    recipe = replace(recipe, num_rounds=num_steps, steps_per_round=1)
    text = corpus.shard(0, 4)
    draw = {"batch_size": recipe.batch_size, "num_tokens": recipe.num_tokens}
    model = initialise(config, batch(text, seed=0, step=0, batch_size=16, num_tokens=128)[:, :-1], seed=0)
    optimiser = make_optimiser(model, recipe)
    for step in range(num_steps):
        windows = torch.from_numpy(batch(text, seed=0, step=step, **draw))
        train_step(model, optimiser, windows, recipe.rate_at(step / num_steps), recipe)
    windows = held_out_windows(corpus.held_out_text, num_bytes=LOSS_BYTES, num_tokens=1024)
    losses = {}
    for kind in FORMATS:
        losses[kind] = engine_loss(EventEngine(config, dense_tensors(model), weights=kind), windows)
        against = f"{losses[kind] - losses['float']:+.4f} beside float"
        report.fact(f"demo.loss.{kind}", losses[kind], "nats per held-out byte", against=against)
    session = EventEngine(config, dense_tensors(model)).session(32)
    for token in windows[:32, :256].T:
        session.step(token)
    rates = session.rates()
    report.fact(
        "demo.rate.lowest", min(rates.values()), "spikes per neuron and token", against="trained, of a population"
    )
    report.fact(
        "demo.rate.highest", max(rates.values()), "spikes per neuron and token", against="trained, of a population"
    )
    return model


def first_byte(report: Report, model: SpikingLM, num_runs: int = 5) -> None:
    """`spikemesh generate`, from the start of the process to the first byte; the torch path runs without kernels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        path.write_bytes(write_tensors(dense_tensors(model), model_metadata(model.config)))
        seconds: dict[str, list[float]] = {"engine": [], "torch": []}
        for _ in range(num_runs):
            for name, kernels in (("engine", instruction_set), ("torch", "numpy")):
                seconds[name].append(_first_byte(path, kernels))
    times = {name: statistics.median(values) for name, values in seconds.items()}
    report.fact("first_byte.engine", times["engine"], "s", against=f"torch: {times['torch']:.2f} s")
    report.fact("first_byte.ratio", times["torch"] / times["engine"], "times as soon", against="the torch path")


def _first_byte(path: Path, kernels: str) -> float:
    prompt = "def "
    command = [sys.executable, "-m", "spikemesh", "generate", str(path), "--prompt", prompt, "--length", "20"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"SPIKEMESH_KERNELS": kernels}) as process:
        assert process.stdout is not None
        process.stdout.read(len(prompt) + 1)
        seconds = time.perf_counter() - start
        process.stdout.read()
    assert process.returncode == 0
    return seconds


def measure(report: Report) -> None:
    arguments = report.arguments
    torch.set_num_threads(1)
    corpus = Corpus.standard_library()
    config, _ = find_preset(arguments.preset)
    report.fact("kernels", instruction_set, "instruction set", against="")
    with torch.no_grad():
        speed(report, config, corpus, arguments.rounds)
    if report.instruction_set == INSTRUCTION_SETS[0]:
        first_byte(report, rounding(report, corpus, arguments.steps))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESET_NAMES, default="140m")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds")
    parser.add_argument("--steps", type=int, default=240, help="training steps of the model whose loss is measured")
    return per_set(__file__, parser, measure)


if __name__ == "__main__":
    sys.exit(main())
