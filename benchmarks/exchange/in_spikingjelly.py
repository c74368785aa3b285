"""Runs in SpikingJelly's environment: a NIR file through its importer, one step per token. Prints one line of JSON.

    python in_spikingjelly.py GRAPH.nir NUMBERS.npz

NUMBERS holds `currents` [L, D]; `delays` [D] of each stream population's axons, empty if there are none; `sizes` of the
populations. Late spikes are kept here, as no node of the graph keeps them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based.nir_exchange import import_from_nir


def run(net: Any, numbers: Any) -> np.ndarray:
    currents, delays, sizes = numbers["currents"], numbers["delays"], numbers["sizes"]
    places = np.concatenate([[0], np.cumsum(sizes)])
    num_blocks, width = len(sizes) // 2, currents.shape[1]
    past = [np.zeros((num_blocks, width), np.float32)] * int(delays.max(initial=0))  # the last step last
    state, rows = None, []
    for u in currents:
        x = u
        if len(delays):
            by_delay = [np.zeros((num_blocks, width), np.float32), *reversed(past)]
            late = [np.choose(delays, [spikes[b] for spikes in by_delay]) for b in range(num_blocks)]
            x = np.concatenate([u, *late])
        with torch.no_grad():
            out, state = net(torch.from_numpy(x)[None], state)
        rows.append(out[0].numpy())
        streams = [rows[-1][places[2 * b] : places[2 * b + 1]] for b in range(num_blocks)]
        past = [*past, np.stack(streams)][1:]
    return np.stack(rows)


def main() -> None:
    try:
        net = import_from_nir(sys.argv[1], dt=1e-4)
    except (ValueError, NotImplementedError, KeyError, TypeError) as error:  # how it says no
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return
    spikes = run(net, np.load(sys.argv[2]))
    print(json.dumps({"spikes": spikes.astype(int).tolist()}))


if __name__ == "__main__":
    main()
