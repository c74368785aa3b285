"""What has happened in a demo's folder, so that the same command goes on after Ctrl-C. Kept in `demo.json`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from spikemesh.cli.demo.report import Event, HistoryPoint, Length
from spikemesh.errors import SpikemeshError, StoreCorrupt
from spikemesh.files import write_file_atomic


class Stage(msgspec.Struct, kw_only=True):
    """Times are seconds of the demo's own work, over all its starts."""

    seed: int
    command: str
    swarm_seconds: float = 0.0
    train_start_s: float | None = None
    train_end_s: float | None = None
    killed: bool = False
    late: bool = False
    trained: bool = False
    length: Length | None = None
    events: list[Event] = []
    history: list[HistoryPoint] = []

    def note(self, text: str) -> None:
        """Something happened, now."""
        self.events.append(Event(t_s=self.swarm_seconds, text=text))

    @classmethod
    def load(cls, place: Path, *, seed: int, command: str) -> Stage:
        """Where the demo in `place` stands; at its beginning if there is none yet."""
        path = place / "demo.json"
        if not path.exists():
            return cls(seed=seed, command=command)
        try:
            stage = msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise StoreCorrupt(f"{path} is damaged ({error}). `spikemesh demo --fresh` starts over.") from error
        if stage.seed != seed:
            raise SpikemeshError(
                f"{place} holds a demo with seed {stage.seed}, not {seed}. Choose another --folder, or --fresh."
            )
        return stage

    def save(self, place: Path) -> None:
        write_file_atomic(place / "demo.json", msgspec.json.encode(self))
