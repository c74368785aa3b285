"""Named models with their training recipes, instead of forty flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from spikemesh.snn import ModelConfig
    from spikemesh.train import Recipe

PRESET_NAMES = ("demo", "tiny", "140m")


def _known(name: str) -> str:
    if name not in PRESET_NAMES:
        raise typer.BadParameter(f"expected one of {', '.join(PRESET_NAMES)}, got {name!r}")
    return name


PRESET_OPTION = typer.Option(help=f"Model and training recipe: {' or '.join(PRESET_NAMES)}.", callback=_known)


def find_preset(name: str) -> tuple[ModelConfig, Recipe]:
    """demo: learns readable text in minutes on two cores. tiny: seconds, to try the machinery out.

    140m: 143 million weights, 10 million of them synapses. Its speed is measured; its training recipe is the demo's and
    is not.
    """
    from spikemesh.snn import ModelConfig
    from spikemesh.train import Recipe

    presets = {
        "demo": (ModelConfig(), Recipe()),
        "tiny": (
            ModelConfig(width=32, hidden=64, num_blocks=1, density=0.25),
            Recipe(num_rounds=60, steps_per_round=4, batch_size=4, num_tokens=32),
        ),
        "140m": (ModelConfig(width=2048, hidden=8192, num_blocks=4), Recipe()),
    }
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}; there are: {', '.join(PRESET_NAMES)}")
    return presets[name]
