"""Peers that are silent, lie or want too much, played by bare iroh endpoints with none of our code."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from iroh.iroh_ffi import EndpointAddr, EndpointBuilder, EndpointId, IrohError, RelayMode
from tests.hang import HANG_S

from spikemesh.errors import PeerUnreachable
from spikemesh.transport import Limits, PeerAddress
from spikemesh.transport.base import HEADER, Kind


async def raw_endpoint():
    """An iroh endpoint with none of our code, to misbehave with."""
    builder = EndpointBuilder()
    builder.apply_minimal()
    builder.relay_mode(RelayMode.disabled())
    builder.alpns([b"spikemesh/1"])
    builder.bind_addr("127.0.0.1:0")
    builder.bind_addr("[::1]:0")
    return await builder.bind()


async def raw_connection(endpoint, address, alpn=b"spikemesh/1"):
    peer = EndpointAddr(EndpointId.from_bytes(address.id), None, list(address.addresses))
    return await asyncio.wait_for(endpoint.connect(peer, alpn), HANG_S)


def test_peers_that_say_nothing_are_timed_out(p2p_world, run, eventually):
    """Three kinds of silence: no stream, a stream without a header, a header without its body."""

    async def scenario(world):
        limits = Limits(idle_timeout_s=1.0, receive_timeout_s=0.5, max_requests=1)
        a, b = await world.node(), await world.node(limits=limits)
        raw = await raw_endpoint()
        try:
            connection = await raw_connection(raw, b.address)
            streams = [await connection.open_bi() for _ in range(2)]
            await streams[0].send().write_all(b"\0")
            await streams[1].send().write_all(HEADER.pack(Kind.REQUEST, 100) + b"x")
            with pytest.raises(IrohError):
                await asyncio.wait_for(streams[1].recv().read_exact(1), HANG_S)
            assert await a.request(b.address, b"ok", timeout_s=HANG_S, max_reply_bytes=9) == b"ok"
            assert await asyncio.wait_for(connection.closed(), HANG_S)
            await eventually(lambda: b.statistics().num_connections == 0)
        finally:
            await raw.close()

    run(p2p_world, scenario)


def test_half_a_request_is_none(p2p_world, run, eventually):
    """A stream that its sender drops ends like a complete one; the length in the frame tells them apart."""

    async def scenario(world):
        seen = []

        async def handler(_peer, request):
            seen.append(request)
            return b""

        b = await world.node(handler)
        raw = await raw_endpoint()
        try:
            connection = await raw_connection(raw, b.address)
            frames = [
                HEADER.pack(Kind.REQUEST, 9) + b"half",
                b"",
                b"\1",
                HEADER.pack(77, 0),
                HEADER.pack(Kind.REPLY, 0),
            ]
            for frame in frames:
                stream = await connection.open_bi()
                await stream.send().write_all(frame)
                await stream.send().finish()
                with pytest.raises(IrohError):
                    await asyncio.wait_for(stream.recv().read_exact(1), HANG_S)
            assert seen == []
        finally:
            await raw.close()

    run(p2p_world, scenario)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (HEADER.pack(Kind.REPLY, 2**32 - 1), "wants to send 4294967295 bytes where at most 9 are taken"),
        (HEADER.pack(Kind.REPLY, 5) + b"hal", "broke off"),
        (HEADER.pack(200, 5), "frame of kind 200"),
        (b"\1", "broke off"),
    ],
)
def test_a_hostile_answer_is_refused(p2p_world, run, frame, sentence):
    async def scenario(world):
        a = await world.node()
        raw = await raw_endpoint()

        async def serve():
            connection = await (await (await raw.accept_next()).accept()).connect()
            stream = await connection.accept_bi()
            await stream.send().write_all(frame)
            await stream.send().finish()
            await connection.closed()

        server = asyncio.ensure_future(serve())
        try:
            peer = PeerAddress(id=raw.id().to_bytes(), addresses=tuple(raw.bound_sockets()))
            with pytest.raises(PeerUnreachable, match=sentence):
                await a.request(peer, b"", timeout_s=HANG_S, max_reply_bytes=9)
        finally:
            await a.close()
            await asyncio.wait_for(server, HANG_S)
            await raw.close()

    run(p2p_world, scenario)


def test_connections_are_bounded_in_all_and_per_peer(p2p_world, run, eventually):
    async def scenario(world):
        b = await world.node(limits=Limits(max_connections=3, max_connections_per_peer=2))
        raws = [await raw_endpoint() for _ in range(3)]
        try:
            held = [await raw_connection(raws[0], b.address) for _ in range(2)]
            await eventually(lambda: b.statistics().num_connections == 2)
            held.append(await raw_connection(raws[0], b.address))
            await asyncio.wait_for(held[0].closed(), HANG_S)
            assert held[1].close_reason() is None
            held.append(await raw_connection(raws[1], b.address))
            await eventually(lambda: b.statistics().num_connections == 3)
            with pytest.raises(IrohError):
                await raw_connection(raws[2], b.address)
            assert b.statistics().num_connections == 3
            assert b.statistics().num_connections_refused == 1
        finally:
            for raw in raws:
                await raw.close()

    run(p2p_world, scenario)


def test_another_protocol_is_refused(p2p_world, run):
    async def scenario(world):
        b = await world.node()
        raw = await raw_endpoint()
        try:
            with pytest.raises(IrohError):
                await raw_connection(raw, b.address, b"spikemesh/2")
        finally:
            await raw.close()

    run(p2p_world, scenario)


def test_the_key_names_the_peer_not_the_address(p2p_world, run):
    async def scenario(world):
        a, b, c = [await world.node() for _ in range(3)]
        with pytest.raises(PeerUnreachable):
            await a.request(replace(c.address, addresses=b.address.addresses), b"", timeout_s=1, max_reply_bytes=0)

    run(p2p_world, scenario)
