"""What only a real network shows: processes that die, connections, wire bytes, hostile peers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from tests.hang import HANG_S

from spikemesh.errors import PeerUnreachable, TransportError
from spikemesh.transport import Limits
from spikemesh.transport.p2p import P2PTransport

DIAL_S = 2.0


async def echo(_peer, request):
    return request


async def reach(transport, address):
    """Until the peer has answered: a busy machine may need longer for a handshake than a dial is given."""
    while True:
        with suppress(PeerUnreachable):
            return await transport.request(address, b"", timeout_s=HANG_S, max_reply_bytes=0)


@pytest.mark.parametrize("same_port", [True, False])
def test_request_on_a_dead_cached_connection_goes_over_a_fresh_one(p2p_world, run, spawn, same_port):
    """Without closing the dead connection first, iroh tries a known peer's old port for 30 s."""

    async def scenario(world):
        key = world.key()
        a = await world.node()
        first = await spawn(key)
        second = None
        try:
            assert await a.request(first.address, b"1", timeout_s=HANG_S, max_reply_bytes=9) == b"1"
            await first.kill()
            second = await spawn(key, first.port if same_port else 0)
            assert (second.port == first.port) is same_port
            held = []
            dial = a._pool.dial
            a._pool.dial = lambda peer, timeout_s: held.append(a._pool.newest(peer.id)) or dial(peer, timeout_s)
            asked = [a.request(second.address, b"2", timeout_s=HANG_S, max_reply_bytes=9) for _ in range(20)]
            assert await asyncio.gather(*asked) == [b"2"] * 20
            assert held and set(held) == {None}
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
        await a.request(b.address, b"", timeout_s=HANG_S, max_reply_bytes=0)
        await b.close()
        again = await world.node(key=key)
        await again.request(a.address, b"", timeout_s=HANG_S, max_reply_bytes=0)
        num_opened = a.statistics().num_connections_opened
        await a.request(b.address, b"", timeout_s=HANG_S, max_reply_bytes=0)
        assert a.statistics().num_connections_opened == num_opened  # it went over the one that the peer opened

    run(p2p_world, scenario)


def test_stopped_process_is_noticed_long_before_a_long_timeout(p2p_world, run, spawn):
    async def scenario(world):
        a = await world.node(dial_timeout_s=DIAL_S)
        process = await spawn(world.key())
        try:
            await reach(a, process.address)
            process.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.process.pid, os.WSTOPPED | os.WNOWAIT)
            with pytest.raises(PeerUnreachable, match="did not take a connection within 2 s"):
                await a.request(process.address, b"", timeout_s=HANG_S, max_reply_bytes=0)
            process.process.send_signal(signal.SIGCONT)
            await reach(a, process.address)
        finally:
            await process.kill()

    run(p2p_world, scenario)


def test_peer_that_dies_while_it_answers_is_noticed_before_a_long_timeout(p2p_world, run, spawn):
    async def scenario(world):
        a = await world.node(dial_timeout_s=DIAL_S)
        process = await spawn(world.key())
        await reach(a, process.address)
        asked = asyncio.ensure_future(a.request(process.address, b"hang", timeout_s=HANG_S, max_reply_bytes=9))
        await asyncio.wait({asked}, timeout=0.05)
        await process.kill()
        with pytest.raises(PeerUnreachable) as raised:
            await asked
        assert "did not answer within" not in str(raised.value)

    run(p2p_world, scenario)


def test_a_slow_handler_is_not_taken_for_a_dead_peer(p2p_world, run, eventually):
    """Nor is one whose places are all taken, so that the last requests are not even sent for a while."""

    async def scenario(world):
        num_calls = 0

        async def slow(_peer, request):
            nonlocal num_calls
            num_calls += 1
            await asyncio.sleep(1.5 if request else 0)
            return b"done"

        a, b = await world.node(), await world.node(slow)
        await a.request(b.address, b"", timeout_s=HANG_S, max_reply_bytes=9)
        asked = [
            asyncio.ensure_future(a.request(b.address, b"slow", timeout_s=HANG_S, max_reply_bytes=9)) for _ in range(8)
        ]
        await eventually(lambda: num_calls == 9)
        await asyncio.sleep(0.1)  # for the last acknowledgement: from here on the connection is quiet
        asked += [
            asyncio.ensure_future(a.request(b.address, b"late", timeout_s=HANG_S, max_reply_bytes=9)) for _ in "1234"
        ]
        assert await asyncio.gather(*asked) == [b"done"] * 12
        assert num_calls == 13
        assert a.statistics().num_connections_opened == 1

    run(p2p_world, scenario)


def test_one_connection_serves_both_directions(p2p_world, run):
    async def scenario(world):
        a, b = await world.node(), await world.node()
        for _ in range(3):
            await a.request(b.address, b"x", timeout_s=HANG_S, max_reply_bytes=9)
            await b.request(a.address, b"x", timeout_s=HANG_S, max_reply_bytes=9)
        assert [x.statistics().num_connections_opened for x in (a, b)] == [1, 1]

    run(p2p_world, scenario)


def test_idle_connections_are_closed_and_opened_again(p2p_world, run, eventually):
    async def scenario(world):
        a, b = await world.node(limits=Limits(idle_timeout_s=1.0)), await world.node()
        await a.request(b.address, b"", timeout_s=HANG_S, max_reply_bytes=0)
        await eventually(lambda: a.statistics().num_connections == b.statistics().num_connections == 0)
        await a.request(b.address, b"", timeout_s=HANG_S, max_reply_bytes=0)
        assert a.statistics().num_connections_opened == 2

    run(p2p_world, scenario)


def test_wire_bytes_cover_messages_handshakes_and_closed_connections(p2p_world, run, eventually):
    async def scenario(world):
        a, b = await world.node(limits=Limits(idle_timeout_s=1.0)), await world.node()
        assert a.statistics().wire_sent_bytes == 0
        await a.request(b.address, bytes(1_000_000), timeout_s=HANG_S, max_reply_bytes=1_000_000)
        await eventually(lambda: a.statistics().num_connections == 0)
        closed = a.statistics()
        for count in (closed.wire_sent_bytes, closed.wire_received_bytes, *a._pool.wire_bytes()):
            assert 1_000_000 < count < 1_800_000  # once, with what was lost on the way and repeated
        await a.request(b.address, bytes(1_000_000), timeout_s=HANG_S, max_reply_bytes=1_000_000)
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
            assert await a.request(b.address, b"hi", timeout_s=HANG_S, max_reply_bytes=9) == b"hi"
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
            assert await a.request(b.address, b"hi", timeout_s=HANG_S, max_reply_bytes=9) == b"hi"
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
        await a.request(b.address, b"x", timeout_s=HANG_S, max_reply_bytes=9)

    def body():
        try:
            run(p2p_world, scenario)
        except BaseException as error:  # noqa: BLE001 - carried to the main thread
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(HANG_S)
    assert not thread.is_alive()
    assert failures == []


@pytest.mark.parametrize("ending", ["close", "return", "interrupt"])
def test_a_process_ends_at_once_and_without_noise(ending):
    """Also when the program forgets to close, or is interrupted in the middle of requests."""
    code = f"""
import asyncio, os, sys
from spikemesh.transport.p2p import P2PTransport
async def main():
    asyncio.get_running_loop().slow_callback_duration = 1e9  # -X dev would tell of a slow machine
    never = asyncio.Event()
    async def handler(peer, request):
        if request: await never.wait()
        return request
    a, b = (P2PTransport(secret_key=os.urandom(32), bind="127.0.0.1:0") for _ in range(2))
    await a.start(handler); await b.start(handler)
    await a.request(b.address, b"", timeout_s=1e9, max_reply_bytes=9)
    asked = asyncio.ensure_future(a.request(b.address, b"hang", timeout_s=1e9, max_reply_bytes=9))
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
        if ending == "interrupt":
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANG_S)  # the request that is open would wait for longer
        assert errors == b""
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
