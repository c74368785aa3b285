"""The environment of the libraries that load what a merge writes."""

from __future__ import annotations

from pathlib import Path

PLACE = Path(__file__).parents[2] / "build" / "loaders"
PACKAGES = ("transformers==5.24.0", "diffusers==0.42.1", "peft==0.21.2", "accelerate==1.15.0")
