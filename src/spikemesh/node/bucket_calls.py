"""What is asked of a bucket: its blocking calls, each in a worker and with an end, and what a newcomer reads first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from blake3 import blake3

from spikemesh.codec import decode_genesis, encode_genesis, run_id
from spikemesh.codec.records import MAX_GENESIS_BYTES
from spikemesh.crdt import Genesis
from spikemesh.errors import InvalidData, TransportError
from spikemesh.node.calls import REQUEST_TIMEOUT_S, SLOWEST_BYTES_PER_S
from spikemesh.node.clock import Offload

Result = TypeVar("Result")


class Objects(Protocol):
    """The bucket as `transport.bucket.Bucket` gives it; calls block."""

    def page(self, folder: str, *, after: str = "", limit: int = 1000) -> list[tuple[str, int]]: ...
    def get(self, name: str, *, max_bytes: int) -> bytes | None: ...
    def put(self, name: str, data: bytes) -> None: ...
    def delete(self, name: str) -> None: ...


class BucketCalls:
    """A bucket's calls in a worker, each with an end: a store that hangs costs its place and nothing else."""

    def __init__(self, objects: Objects, offload: Offload) -> None:
        self._objects, self._offload = objects, offload

    def __str__(self) -> str:
        return str(self._objects)

    async def page(self, folder: str, after: str = "", limit: int = 1000) -> list[tuple[str, int]]:
        return await self._call(0, lambda: self._objects.page(folder, after=after, limit=limit))

    async def get(self, name: str, max_bytes: int) -> bytes | None:
        return await self._call(max_bytes, lambda: self._objects.get(name, max_bytes=max_bytes))

    async def put(self, name: str, data: bytes) -> None:
        await self._call(len(data), lambda: self._objects.put(name, data))

    async def delete(self, name: str) -> None:
        await self._call(0, lambda: self._objects.delete(name))

    async def _call(self, num_bytes: int, work: Callable[[], Result]) -> Result:
        limit_s = 3 * REQUEST_TIMEOUT_S + num_bytes / SLOWEST_BYTES_PER_S
        try:
            async with asyncio.timeout(limit_s):
                return await self._offload(work)
        except TimeoutError:
            raise TransportError(f"{self} did not answer within {limit_s:.0f} s") from None

    async def blob(self, digest: bytes, num_bytes: int) -> bytes:
        """The blob of that hash and length; `TransportError` if it is not there, or not whole."""
        try:
            data = await self.get(f"blobs/{digest.hex()}", num_bytes)
        except InvalidData as error:
            raise TransportError(f"blob {digest.hex()[:8]} is damaged: {error}") from error
        if data is None or len(data) != num_bytes or blake3(data).digest() != digest:
            raise TransportError(f"blob {digest.hex()[:8]} is not, or not whole, in {self}")
        return data

    async def genesis(self, wanted_run_id: bytes) -> Genesis:
        """The run's description, checked by its hash."""
        data = await self.get("genesis", MAX_GENESIS_BYTES)
        if data is None:
            raise TransportError(f"{self} does not hold run {wanted_run_id.hex()[:8]}: check the URL and the ticket")
        genesis = decode_genesis(data)
        if run_id(genesis) != wanted_run_id:
            raise InvalidData(f"{self} holds the genesis of another run than {wanted_run_id.hex()[:8]}")
        return genesis

    async def found(self, genesis: Genesis, start: Callable[[], Awaitable[bytes | None]]) -> None:
        """Put what a newcomer needs first, unless it is there: the run's start, then the genesis that names it."""
        if await self.get("genesis", MAX_GENESIS_BYTES) is not None:
            return
        data = await start()
        if data is not None:
            await self.put(f"blobs/{genesis.init_hash.hex()}", data)
            await self.put("genesis", encode_genesis(genesis))
