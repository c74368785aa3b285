"""The programs that merges are held against, in a virtual environment of their own.

Two ways to call each, as their READMEs show them:
- crdt-merge 0.11.0: `ModelMerge(...).merge([a, b])` on dictionaries of torch tensors, which is the faster one, and
  `.crdt_merge`, the one with its CRDT guarantee, which needs NumPy arrays and knows inputs by a name. Its command line
  `crdt-merge model merge` fails at once (it calls its own class with an argument that this does not have), so a short
  script reads and writes the files.
- mergekit 0.1.5: the command `mergekit-pytorch` that it installs, and `merge_state_dicts` for tensors in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from environments import environment
from merging.meter import Run, measure

SCRIPTS = Path(__file__).parent
PACKAGES = ("crdt-merge[model]==0.11.0", "mergekit==0.1.5")
OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}


class Peers:
    """Their environment under `place`, made on first use, and what to run in it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._bin = place / "venv" / "bin"

    def install(self) -> None:
        """Make the environment, unless it is there."""
        environment(self._place, packages=PACKAGES)

    def crdt_merge(self, inputs: Sequence[Path], out: Path, *, crdt: bool = False, limit_s: float = 600) -> Run:
        """Its weight average."""
        method = "crdt_merge" if crdt else "merge"
        script = [self._bin / "python", SCRIPTS / "peer_crdt_merge.py", method, out, *inputs]
        return measure(script, limit_s=limit_s, environment=OFFLINE)

    def mergekit(self, inputs: Sequence[Path], out: Path, *, base: Path | None = None, limit_s: float = 600) -> Run:
        """Its linear merge; with a base `ties`, density 1. `out` becomes a folder with model.safetensors in it."""
        config = out.with_suffix(".yaml")
        config.write_text(_recipe(inputs, base))
        command = [self._bin / "mergekit-pytorch", config, out, "--quiet"]
        return measure(command, limit_s=limit_s, environment=OFFLINE)

    def mergekit_in_memory(self, inputs: Sequence[Path], out: Path, warm_up: Sequence[Path]) -> Run:
        """Its linear merge of tensors in memory; says what it took, without imports."""
        script = [self._bin / "python", SCRIPTS / "peer_mergekit.py", out, *warm_up, *inputs]
        return measure(script, environment=OFFLINE)


def _recipe(inputs: Sequence[Path], base: Path | None) -> str:
    """YAML, written by hand: this environment has no need of a library for it."""
    lines = ["merge_method: " + ("ties" if base else "linear"), "dtype: float32"]
    if base:
        lines.append(f"base_model: {base}")
    lines.append("models:")
    for path in inputs:
        lines.append(f"- model: {path}")
    lines.append("parameters:\n  weight: 1.0" + ("\n  density: 1.0" if base else ""))
    return "\n".join(lines) + "\n"
