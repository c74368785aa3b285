"""Folders that `spikemesh merge` writes, loaded by transformers, diffusers and PEFT: is every element where it belongs?

The three live in an environment of their own, which this script makes under `build/loaders` on first use. They make
pairs of tiny models from configurations, offline; the command line merges them; their own loaders read every result
(`loading/in_ecosystem.py`): whole, in shards, in other types, tied, with remote code, as a variant, an adapter.

    python benchmarks/loaders.py --commit
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import ROOT, environment
from harness import Report
from loading import PACKAGES, PLACE

SCRIPT = ROOT / "benchmarks" / "loading" / "in_ecosystem.py"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": ""}
SHARDED = ("--shard-size", "2KB")
MERGES: dict[str, dict[str, tuple[str, ...]]] = {
    "llama": {"ab": (), "ab-f32": ("--dtype", "f32"), "ab-shards": SHARDED, "a-f16": ("--dtype", "f16")},
    "tied": {"ab": (), "ab-shards-f32": (*SHARDED, "--dtype", "f32")},
    "bin": {"ab": ()},
    "remote": {"ab": (), "ab-bf16": ("--dtype", "bf16")},
    "unet": {"ab": (), "ab-shards": SHARDED},
    "variant": {"ab": (), "ab-shards": SHARDED},
    "adapter": {"a": ()},
}
"""By case: the inputs and the way in the name of each result, and the options. Of a `.bin`, head and embedding are both
in the file; an adapter is merged with others by another rule, so here it is only copied."""
AGAINST = {
    "apart": "elements that are not the active mean",
    "absent": "tensors that the loaded model lacks",
    "types": "tensors of another type than in the file",
    "keys": "keys that the loader missed or did not expect",
    "untied": "heads that are not the embedding",
    "tokenizer": "tokenizers or chat templates that say something else",
}


def in_ecosystem(python: Path, what: str, place: Path) -> str:
    home = {"HF_HOME": str(place / "home"), "PATH": os.environ["PATH"]}
    command = [str(python), str(SCRIPT), what, str(place)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**OFFLINE, **home}).stdout


def merge_all(place: Path) -> None:
    for case, ways in MERGES.items():
        for way, options in ways.items():
            inputs = [str(place / case / name) for name in way.split("-")[0]]
            command = [
                sys.executable,
                "-m",
                "spikemesh",
                "merge",
                *inputs,
                "-o",
                str(place / case / f"out-{way}"),
                *options,
            ]
            subprocess.run(
                command, check=True, stdout=sys.stderr, env={**os.environ, "SPIKEMESH_CACHE": str(place / "c")}
            )


def main() -> int:
    report = Report(__file__, __doc__)
    python = environment(PLACE, packages=PACKAGES) / "python"
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        in_ecosystem(python, "make", place)
        merge_all(place)
        checked = [json.loads(line) for line in in_ecosystem(python, "check", place).splitlines()]
    report.fact("loaders", ", ".join(PACKAGES[:3]), "versions", against="torch 2.13.0")
    report.at_least("folders", len(checked), "folders loaded", bar=sum(map(len, MERGES.values())), against="merged")
    for line in checked:
        for key, against in AGAINST.items():
            if key in line:
                report.at_most(f"{line['case']}.{line['out']}.{key}", line[key], "wrong", bar=0, against=against)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
