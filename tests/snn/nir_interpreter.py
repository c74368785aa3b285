"""Runs a NIR graph step by step, from NIR's own equations and nothing of ours: forward Euler, float32 potentials."""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Any

import nir
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Interpreter:
    def __init__(self, graph: nir.NIRGraph, dt: float) -> None:
        self._graph, self._dt = graph, dt
        self._sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in graph.edges:
            self._sources[target].append(source)
        self._order = list(TopologicalSorter(self._sources).static_order())
        self._memory: dict[str, Any] = {}

    def step(self, x: Floats, watched: dict[str, Floats] | None = None) -> Floats:
        """One step of dt: the graph's output; `watched` receives what each node gives."""
        given: dict[str, Floats] = {} if watched is None else watched
        for name in self._order:
            sources = [given[source] for source in self._sources[name]]
            given[name] = self._node(name, self._graph.nodes[name], x if not sources else sum(sources[1:], sources[0]))
        return given[next(name for name, node in self._graph.nodes.items() if isinstance(node, nir.Output))]

    def _node(self, name: str, node: Any, x: Floats) -> Floats:
        match node:
            case nir.Input() | nir.Output():
                return x
            case nir.Linear():
                return np.asarray(node.weight @ x, np.float32)
            case nir.Affine():
                return np.asarray(node.weight @ x + node.bias, np.float32)
            case nir.NIRGraph():
                return self._memory.setdefault(name, Interpreter(node, self._dt)).step(x)
            case nir.Delay():
                return self._delayed(name, np.rint(np.asarray(node.delay) / self._dt).astype(int), x)
            case nir.LI():
                return self._membrane(name, node, x)
            case nir.LIF():
                v = self._membrane(name, node, x)
                spikes = v > node.v_threshold.astype(np.float32)
                self._memory[name] = np.where(spikes, node.v_reset, v).astype(np.float32)
                return spikes.astype(np.float32)
        raise TypeError(f"the interpreter knows no {type(node).__name__}")

    def _membrane(self, name: str, node: Any, x: Floats) -> Floats:
        share = self._dt / node.tau
        kept, taken = (1 - share).astype(np.float32), (share * node.r).astype(np.float32)
        v = self._memory.get(name, np.zeros(len(x), np.float32))
        v = kept * v + taken * x + (share * node.v_leak).astype(np.float32)
        self._memory[name] = v
        return np.asarray(v, np.float32)

    def _delayed(self, name: str, steps: npt.NDArray[np.int64], x: Floats) -> Floats:
        history = self._memory.setdefault(name, [np.zeros_like(x)] * int(steps.max(initial=0)))
        history.append(x)
        late = np.array([history[-1 - step][n] for n, step in enumerate(steps)], np.float32)
        del history[0]
        return late
