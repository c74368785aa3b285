"""The spiking libraries that we are held against, in a virtual environment of their own that this module makes.

They come without their dependencies: SpikingJelly and norse would bring builds of torchvision for CUDA. The few that
the code in `lif_worker` imports are named here. Nothing of theirs is imported by us.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCH = ("torch", "numpy")
PEERS = ("spikingjelly==2.0.0", "snntorch==1.0.0", "norse==1.1.0")
THEIR_IMPORTS = ("loguru==0.7.3", "nir==1.0.8", "nirtorch==2.6", "h5py==3.16.0")


def peer_python(place: Path) -> Path:
    """The interpreter of their environment under `place`, made on first use."""
    binaries, ready = place / "venv" / "bin", place / "ready"
    pins = "\n".join((*TORCH, *PEERS, *THEIR_IMPORTS))
    if not (ready.exists() and ready.read_text() == pins):
        print(f"installing {', '.join(PEERS)}", file=sys.stderr)
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", binaries.parent], check=True)
        pip = [binaries / "pip", "install", "-qq", "--disable-pip-version-check"]
        pip += ["--constraint", ROOT / "constraints.txt"]
        # torch first and by its pin, so that nothing else can pull in another build of it.
        for packages in (TORCH, ("--no-deps", *PEERS, *THEIR_IMPORTS)):
            subprocess.run([*pip, *packages], check=True, stdout=sys.stderr)
        ready.write_text(pins)
    return binaries / "python"
