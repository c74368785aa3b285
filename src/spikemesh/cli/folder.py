"""A node's folder: what a run is to the person who takes part in it.

genesis.msgpack     the run's immutable description; its hash is the run's id
identity.key        this volunteer's secret key
node.sqlite blobs/  the store
trainee/            the trainer's own state, per published round
peers.json          where other nodes were last seen
buckets.json        folders that others can reach too; never a key
relay               URL of the relay that this node uses; without it, none
ticket              what others join with, while the node runs
status.json         the node's statistics, twice a second
model.safetensors   the merged model, renewed every minute and at the end
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from spikemesh.codec import decode_genesis, encode_genesis, run_id
from spikemesh.crdt import Genesis
from spikemesh.errors import InvalidData, StoreCorrupt, TicketError
from spikemesh.files import write_file_atomic
from spikemesh.node import NodeStatistics
from spikemesh.transport import PeerAddress

if TYPE_CHECKING:
    pass


class _StoredPeer(msgspec.Struct, frozen=True):
    id: str
    addresses: tuple[str, ...]
    relay_url: str | None = None


class RunFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """`TicketError` unless `path` is a node's folder."""
        folder = cls(path)
        if not folder.has_genesis:
            raise TicketError(
                f"{path} is not a run's folder: it has no genesis.msgpack. Make a run with `spikemesh init {path}`, or "
                "join one with the ticket that a volunteer gave you."
            )
        return folder

    @property
    def genesis_path(self) -> Path:
        return self.path / "genesis.msgpack"

    @property
    def model_path(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def ticket_path(self) -> Path:
        return self.path / "ticket"

    @property
    def status_path(self) -> Path:
        return self.path / "status.json"

    @property
    def has_genesis(self) -> bool:
        return self.genesis_path.is_file()

    def genesis(self) -> Genesis:
        try:
            return decode_genesis(self.genesis_path.read_bytes())
        except InvalidData as error:
            raise StoreCorrupt(
                f"{self.genesis_path} is damaged ({error}). Join again with a ticket in a new folder."
            ) from error

    def set_genesis(self, genesis: Genesis) -> None:
        write_file_atomic(self.genesis_path, encode_genesis(genesis))

    def run_id(self) -> bytes:
        return run_id(self.genesis())

    def peers(self) -> tuple[PeerAddress, ...]:
        """Where others were last seen. Only hints, so a damaged file is no peers."""
        with contextlib.suppress(OSError, msgspec.DecodeError, ValueError):
            stored = msgspec.json.decode((self.path / "peers.json").read_bytes(), type=list[_StoredPeer])
            return tuple(
                PeerAddress(id=bytes.fromhex(peer.id), addresses=peer.addresses, relay_url=peer.relay_url)
                for peer in stored
            )
        return ()

    def set_peers(self, peers: tuple[PeerAddress, ...]) -> None:
        stored = [_StoredPeer(peer.id.hex(), peer.addresses, peer.relay_url) for peer in peers]
        write_file_atomic(self.path / "peers.json", msgspec.json.encode(stored))

    def buckets(self) -> tuple[str, ...]:
        """The buckets that this node exchanges with. A damaged file is none: they are named again when joining."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return tuple(msgspec.json.decode((self.path / "buckets.json").read_bytes(), type=list[str]))
        return ()

    def add_buckets(self, urls: tuple[str, ...]) -> None:
        known = tuple(dict.fromkeys((*self.buckets(), *urls)))
        if known != self.buckets():
            self.path.mkdir(parents=True, exist_ok=True)
            write_file_atomic(self.path / "buckets.json", msgspec.json.encode(known))

    def relay(self) -> str | None:
        """URL of the relay that this node uses; None for none."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / "relay").read_text().strip() or None
        return None

    def set_relay(self, url: str) -> None:
        if url != self.relay():
            self.path.mkdir(parents=True, exist_ok=True)
            write_file_atomic(self.path / "relay", url.encode() + b"\n")

    def bind(self, wanted: str) -> str:
        """`wanted` as host:port; for port 0, any, the one this node had the last time."""
        host, _, port = wanted.rpartition(":")
        with contextlib.suppress(OSError, ValueError):
            last = int((self.path / "port").read_text())
            return f"{host}:{last}" if port == "0" and 0 < last < 1 << 16 else wanted
        return wanted

    def set_port(self, address: PeerAddress) -> None:
        port = address.addresses[0].rpartition(":")[2]
        write_file_atomic(self.path / "port", port.encode())

    def statistics(self) -> NodeStatistics | None:
        """The last statistics that the node wrote here; None before it ran."""
        try:
            return msgspec.json.decode(self.status_path.read_bytes(), type=NodeStatistics)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def set_statistics(self, statistics: NodeStatistics) -> None:
        write_file_atomic(self.status_path, msgspec.json.format(msgspec.json.encode(statistics)))
