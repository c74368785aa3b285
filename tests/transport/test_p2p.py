"""What only a real network shows: processes that die, connections, wire bytes, hostile peers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from iroh.iroh_ffi import EndpointAddr, EndpointBuilder, EndpointId, IrohError, RelayMode

from spikemesh.errors import PeerUnreachable, TransportError
from spikemesh.transport import Limits
from spikemesh.transport.base import HEADER, Kind
from spikemesh.transport.p2p import P2PTransport


async def echo(_peer, request):
    return request


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
    return await asyncio.wait_for(endpoint.connect(peer, alpn), 5)


@pytest.mark.parametrize("same_port", [True, False])
def test_request_on_a_dead_cached_connection_goes_over_a_fresh_one(p2p_world, run, spawn, same_port):
    """Without closing the dead connection first, iroh tries a known peer's old port for 30 s."""

    async def scenario(world):
        key = world.key()
        a = await world.node()
        first = await spawn(key)
        second = None
        try:
            assert await a.request(first.address, b"1", timeout_s=10, max_reply_bytes=9) == b"1"
            await first.kill()
            second = await spawn(key, first.port if same_port else 0)
            assert (second.port == first.port) is same_port
            start_s = time.monotonic()
            asked = [a.request(second.address, b"2", timeout_s=10, max_reply_bytes=9) for _ in range(20)]
            assert await asyncio.gather(*asked) == [b"2"] * 20
            assert time.monotonic() - start_s < 3
            assert a.statistics().num_connections == 1
        finally:
            for process in (first, second):
                if process is not None:
                    await process.kill()

    run(p2p_world, scenario)


def test_restarted_peer_that_speaks_first_is_heard_at_once(p2p_world, run):
    async def scenario(world):
        key = world.key()
        a, b = await world.node(), await world.node(key=key)
        await a.request(b.address, b"", timeout_s=5, max_reply_bytes=0)
        await b.close()
        again = await world.node(key=key)
        await again.request(a.address, b"", timeout_s=5, max_reply_bytes=0)
        start_s = time.monotonic()
        await a.request(b.address, b"", timeout_s=5, max_reply_bytes=0)
        assert time.monotonic() - start_s < 0.5

    run(p2p_world, scenario)


def test_stopped_process_is_noticed_long_before_a_long_timeout(p2p_world, run, spawn):
    async def scenario(world):
        a = await world.node()
        process = await spawn(world.key())
        try:
            await a.request(process.address, b"", timeout_s=10, max_reply_bytes=0)
            process.process.send_signal(signal.SIGSTOP)
            start_s = time.monotonic()
            with pytest.raises(PeerUnreachable, match="did not take a connection"):
                await a.request(process.address, b"", timeout_s=60, max_reply_bytes=0)
            assert time.monotonic() - start_s < 6
            process.process.send_signal(signal.SIGCONT)
            await a.request(process.address, b"", timeout_s=10, max_reply_bytes=0)
        finally:
            await process.kill()

    run(p2p_world, scenario)


def test_a_slow_handler_is_not_taken_for_a_dead_peer(p2p_world, run):
    async def scenario(world):
        num_calls = 0

        async def slow(_peer, request):
            nonlocal num_calls
            num_calls += 1
            await asyncio.sleep(1.3 if request else 0)
            return b"done"

        a, b = await world.node(), await world.node(slow)
        await a.request(b.address, b"", timeout_s=5, max_reply_bytes=9)
        assert await a.request(b.address, b"slow", timeout_s=3.5, max_reply_bytes=9) == b"done"
        assert num_calls == 2

    run(p2p_world, scenario)


def test_one_connection_serves_both_directions(p2p_world, run):
    async def scenario(world):
        a, b = await world.node(), await world.node()
        for _ in range(3):
            await a.request(b.address, b"x", timeout_s=5, max_reply_bytes=9)
            await b.request(a.address, b"x", timeout_s=5, max_reply_bytes=9)
        assert [x.statistics().num_connections_opened for x in (a, b)] == [1, 1]

    run(p2p_world, scenario)


def test_idle_connections_are_closed_and_opened_again(p2p_world, run, eventually):
    async def scenario(world):
        a, b = await world.node(limits=Limits(idle_timeout_s=0.2)), await world.node()
        await a.request(b.address, b"", timeout_s=5, max_reply_bytes=0)
        await eventually(lambda: a.statistics().num_connections == b.statistics().num_connections == 0)
        await a.request(b.address, b"", timeout_s=5, max_reply_bytes=0)
        assert a.statistics().num_connections_opened == 2

    run(p2p_world, scenario)


def test_peers_that_say_nothing_are_timed_out(p2p_world, run, eventually):
    """Three kinds of silence: no stream, a stream without a header, a header without its body."""

    async def scenario(world):
        limits = Limits(idle_timeout_s=0.3, receive_timeout_s=0.2, max_requests=1)
        a, b = await world.node(), await world.node(limits=limits)
        raw = await raw_endpoint()
        try:
            connection = await raw_connection(raw, b.address)
            streams = [await connection.open_bi() for _ in range(2)]
            await streams[0].send().write_all(b"\0")
            await streams[1].send().write_all(HEADER.pack(Kind.REQUEST, 100) + b"x")
            with pytest.raises(IrohError):
                await asyncio.wait_for(streams[1].recv().read_exact(1), 5)
            assert await a.request(b.address, b"ok", timeout_s=5, max_reply_bytes=9) == b"ok"
            assert await asyncio.wait_for(connection.closed(), 5)
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
                    await asyncio.wait_for(stream.recv().read_exact(1), 5)
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
        from spikemesh.transport import PeerAddress

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
                await a.request(peer, b"", timeout_s=5, max_reply_bytes=9)
        finally:
            await a.close()
            await asyncio.wait_for(server, 5)
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
            await asyncio.wait_for(held[0].closed(), 5)
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
        from dataclasses import replace

        a, b, c = [await world.node() for _ in range(3)]
        with pytest.raises(PeerUnreachable):
            await a.request(replace(c.address, addresses=b.address.addresses), b"", timeout_s=1, max_reply_bytes=0)

    run(p2p_world, scenario)


def test_wire_bytes_cover_messages_handshakes_and_closed_connections(p2p_world, run, eventually):
    async def scenario(world):
        a, b = await world.node(limits=Limits(idle_timeout_s=0.2)), await world.node()
        assert a.statistics().wire_sent_bytes == 0
        await a.request(b.address, bytes(1_000_000), timeout_s=5, max_reply_bytes=1_000_000)
        await eventually(lambda: a.statistics().num_connections == 0)
        closed = a.statistics()
        for count in (closed.wire_sent_bytes, closed.wire_received_bytes):
            assert 1_000_000 < count < 1_200_000
        await a.request(b.address, bytes(1_000_000), timeout_s=5, max_reply_bytes=1_000_000)
        assert a.statistics().wire_sent_bytes > closed.wire_sent_bytes + 1_000_000
        other = b.statistics()
        assert abs(other.wire_received_bytes - a.statistics().wire_sent_bytes) < 100_000

    run(p2p_world, scenario)


def test_a_taken_port_gives_another_one(p2p_world, run):
    async def scenario(world):
        a = await world.node()
        taken = a.address.addresses[0]
        b = P2PTransport(secret_key=world.key(), bind=taken)
        await b.start(echo)
        try:
            assert b.address.addresses[0] != taken
            assert await a.request(b.address, b"hi", timeout_s=5, max_reply_bytes=9) == b"hi"
        finally:
            await b.close()

    run(p2p_world, scenario)


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::1]:0"])
def test_the_address_is_one_that_can_be_dialled(p2p_world, run, bind):
    async def scenario(world):
        a, b = (P2PTransport(secret_key=world.key(), bind=bind) for _ in range(2))
        await a.start(echo)
        await b.start(echo)
        try:
            assert await a.request(b.address, b"hi", timeout_s=5, max_reply_bytes=9) == b"hi"
        finally:
            await asyncio.gather(a.close(), b.close())

    run(p2p_world, scenario)


def test_bad_options_have_one_clear_sentence():
    with pytest.raises(ValueError, match="32 bytes"):
        P2PTransport(secret_key=b"short")
    with pytest.raises(ValueError, match="known after start"):
        _ = P2PTransport(secret_key=bytes(32)).address
    with pytest.raises(ValueError, match="ip:port"):
        asyncio.run(P2PTransport(secret_key=bytes(32), bind="localhost").start(echo))
    with pytest.raises(TransportError, match="no socket can be opened on 192"):
        asyncio.run(P2PTransport(secret_key=bytes(32), bind="192.0.2.77:0").start(echo))


def test_works_in_a_loop_of_another_thread(p2p_world, run):
    failures = []

    async def scenario(world):
        a, b = await world.node(), await world.node()
        await a.request(b.address, b"x", timeout_s=5, max_reply_bytes=9)

    def body():
        try:
            run(p2p_world, scenario)
        except BaseException as error:  # noqa: BLE001 - carried to the main thread
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert failures == []


@pytest.mark.parametrize("ending", ["close", "return", "interrupt"])
def test_a_process_ends_at_once_and_without_noise(ending):
    """Also when the program forgets to close, or is interrupted in the middle of requests."""
    code = f"""
import asyncio, os, sys
from spikemesh.transport.p2p import P2PTransport
async def main():
    never = asyncio.Event()
    async def handler(peer, request):
        if request: await never.wait()
        return request
    a, b = (P2PTransport(secret_key=os.urandom(32), bind="127.0.0.1:0") for _ in range(2))
    await a.start(handler); await b.start(handler)
    await a.request(b.address, b"", timeout_s=5, max_reply_bytes=9)
    asked = asyncio.ensure_future(a.request(b.address, b"hang", timeout_s=60, max_reply_bytes=9))
    while not b.statistics().num_requests_open: await asyncio.sleep(0.001)
    print("ready", flush=True)
    if {ending!r} == "interrupt": await never.wait()
    if {ending!r} == "close":
        asked.cancel()
        await asyncio.gather(a.close(), b.close())
try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
"""
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        start_s = time.monotonic()
        if ending == "interrupt":
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert time.monotonic() - start_s < 3
        assert errors == b""
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
