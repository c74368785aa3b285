"""What every transport promises, wrapped or not."""

from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest
from tests.hang import HANG_S

from spikemesh.errors import PeerUnreachable
from spikemesh.transport import Limits, PeerAddress

BIG_BYTES = 10 << 20


async def silent(_peer, _request):
    await asyncio.Event().wait()


def now_s():
    """Virtual in memory, and then exact. On a real network nobody looks at it: both wait in the same lines of code."""
    return asyncio.get_running_loop().time()


def test_echo_names_the_requester(world, run):
    async def scenario(world):
        async def handler(peer, request):
            return peer + request

        a, b = await world.node(), await world.node(handler)
        reply = await a.request(b.address, b"hello", timeout_s=HANG_S, max_reply_bytes=100)
        assert reply == a.address.id + b"hello"

    run(world, scenario)


def test_messages_of_no_bytes(world, run):
    async def scenario(world):
        a, b = await world.node(), await world.node()
        assert await a.request(b.address, b"", timeout_s=HANG_S, max_reply_bytes=0) == b""

    run(world, scenario)


def test_ten_megabytes_both_ways(world, run):
    async def scenario(world):
        a, b = await world.node(), await world.node()
        message = world.rng.randbytes(BIG_BYTES)
        assert await a.request(b.address, message, timeout_s=HANG_S, max_reply_bytes=BIG_BYTES) == message

    run(world, scenario)


def test_requests_to_several_peers_run_together(world, run):
    async def scenario(world):
        waiting = 0
        all_here = asyncio.Event()

        async def handler(_peer, request):
            nonlocal waiting
            waiting += 1
            if waiting == 6:
                all_here.set()
            await all_here.wait()
            return request

        a = await world.node()
        others = [await world.node(handler) for _ in range(3)]
        asked = [
            a.request(other.address, bytes([n]), timeout_s=HANG_S, max_reply_bytes=1)
            for n in range(2)
            for other in others
        ]
        assert await asyncio.gather(*asked) == [bytes([n]) for n in range(2) for _ in others]

    run(world, scenario)


def test_hundreds_of_requests_at_once_keep_their_replies(world, run):
    async def scenario(world):
        a, b = await world.node(), await world.node()
        messages = [world.rng.randbytes(n) for n in range(300)]
        asked = [a.request(b.address, message, timeout_s=HANG_S, max_reply_bytes=300) for message in messages]
        assert await asyncio.gather(*asked) == messages

    run(world, scenario)


def test_both_sides_dial_at_once(world, run):
    async def scenario(world):
        a, b = await world.node(), await world.node()
        asked = [
            x.request(y.address, x.address.id, timeout_s=HANG_S, max_reply_bytes=32) for x, y in [(a, b), (b, a)] * 10
        ]
        assert await asyncio.gather(*asked) == [a.address.id, b.address.id] * 10

    run(world, scenario)


def test_reply_above_the_bound_is_refused_and_the_next_one_works(world, run):
    async def scenario(world):
        a, b = await world.node(), await world.node()
        with pytest.raises(PeerUnreachable, match="wants to send 1000 bytes where at most 999 are taken"):
            await a.request(b.address, bytes(1000), timeout_s=HANG_S, max_reply_bytes=999)
        assert await a.request(b.address, bytes(1000), timeout_s=HANG_S, max_reply_bytes=1000) == bytes(1000)

    run(world, scenario)


@pytest.mark.parametrize("excess_bytes", [1, BIG_BYTES])
def test_request_above_the_bound_never_reaches_the_handler(world, run, excess_bytes):
    async def scenario(world):
        seen = []

        async def handler(_peer, request):
            seen.append(len(request))
            return b"ok"

        a, b = await world.node(), await world.node(handler, limits=Limits(max_request_bytes=1000))
        with pytest.raises(PeerUnreachable, match="takes requests of at most 1000 bytes"):
            await a.request(b.address, bytes(1000 + excess_bytes), timeout_s=HANG_S, max_reply_bytes=9)
        assert await a.request(b.address, bytes(1000), timeout_s=HANG_S, max_reply_bytes=9) == b"ok"
        assert seen == [1000]

    run(world, scenario)


def test_handler_error_is_told_without_its_cause(world, run, caplog):
    async def scenario(world):
        async def handler(_peer, request):
            if request == b"bad":
                raise RuntimeError("secret path /home/someone")
            return request

        a, b = await world.node(), await world.node(handler)
        with pytest.raises(PeerUnreachable, match="could not answer this request") as raised:
            await a.request(b.address, b"bad", timeout_s=HANG_S, max_reply_bytes=9)
        assert "secret" not in str(raised.value)
        assert await a.request(b.address, b"good", timeout_s=HANG_S, max_reply_bytes=9) == b"good"

    run(world, scenario)
    assert "secret path" in caplog.text


def test_silent_peer_costs_the_timeout_and_no_more(world, run, eventually):
    async def scenario(world):
        a, b = await world.node(), await world.node(silent)
        start_s = now_s()
        with pytest.raises(PeerUnreachable, match=r"within 0\.3 s"):
            await a.request(b.address, b"anyone?", timeout_s=0.3, max_reply_bytes=9)
        assert now_s() - start_s == pytest.approx(0.3) or world.base == "p2p"
        await eventually(lambda: b.statistics().num_requests_open == 0)

    run(world, scenario)


def test_unknown_peer(world, run):
    async def scenario(world):
        a, gone = await world.node(), await world.node()
        address = gone.address
        await gone.close()
        for peer in (address, PeerAddress(id=bytes([2] * 32), addresses=("127.0.0.1:9",)), PeerAddress(id=address.id)):
            start_s = now_s()
            with pytest.raises(PeerUnreachable):
                await a.request(peer, b"hello", timeout_s=0.5, max_reply_bytes=9)
            assert now_s() - start_s <= 0.5 or world.base == "p2p"

    run(world, scenario)


@pytest.mark.parametrize("peer_id", [b"\xff" * 32, b"\x02" + bytes(31)])
def test_addresses_that_are_none(world, run, peer_id):
    async def scenario(world):
        a = await world.node()
        with pytest.raises(PeerUnreachable):
            await a.request(
                PeerAddress(id=peer_id, addresses=("no:where", "1.2.3.4:99999")),
                b"",
                timeout_s=0.5,
                max_reply_bytes=9,
            )
        with pytest.raises(PeerUnreachable):
            await a.request(a.address, b"myself", timeout_s=0.5, max_reply_bytes=9)

    run(world, scenario)


def test_killed_peer_comes_back_on_the_same_key(world, run):
    async def scenario(world):
        key = world.key()
        a = await world.node()
        address, kill = await world.doomed(key)
        assert await a.request(address, b"1", timeout_s=HANG_S, max_reply_bytes=9) == b"1"
        await kill()
        with pytest.raises(PeerUnreachable):
            await a.request(address, b"2", timeout_s=1, max_reply_bytes=9)
        again, _ = await world.doomed(key)
        assert again.id == address.id
        assert await a.request(again, b"3", timeout_s=HANG_S, max_reply_bytes=9) == b"3"

    run(world, scenario)


def test_peer_killed_while_it_answers(world, run):
    async def scenario(world):
        a = await world.node()
        address, kill = await world.doomed(world.key())
        assert await a.request(address, b"1", timeout_s=HANG_S, max_reply_bytes=9) == b"1"
        asked = asyncio.ensure_future(a.request(address, b"hang", timeout_s=3, max_reply_bytes=9))
        done, _ = await asyncio.wait({asked}, timeout=0.05)
        assert not done
        await kill()
        with pytest.raises(PeerUnreachable):
            await asyncio.wait_for(asked, HANG_S)

    run(world, scenario)


def test_close_ends_what_is_in_flight_on_both_sides(world, run, eventually):
    async def scenario(world):
        a, b, c = await world.node(), await world.node(silent), await world.node()
        asked = [asyncio.ensure_future(x.request(b.address, b"", timeout_s=HANG_S, max_reply_bytes=9)) for x in (a, c)]
        await eventually(lambda: b.statistics().num_requests_open == 2)
        await a.close()
        with pytest.raises(PeerUnreachable, match="transport was closed"):
            await asked[0]
        await eventually(lambda: b.statistics().num_requests_open == 1)
        await b.close()
        with pytest.raises(PeerUnreachable) as raised:
            await asked[1]
        assert "did not answer within" not in str(raised.value)  # it was told
        with pytest.raises(PeerUnreachable, match="not open"):
            await a.request(b.address, b"", timeout_s=1, max_reply_bytes=9)
        await a.close()

    run(world, scenario)


def test_cancelled_request_leaves_nothing_behind(world, run, eventually):
    async def scenario(world):
        cancelled = 0

        async def handler(peer, request):
            nonlocal cancelled
            try:
                return await silent(peer, request)
            except asyncio.CancelledError:
                cancelled += 1
                raise

        a, b = await world.node(), await world.node(handler)
        first = asyncio.ensure_future(a.request(b.address, b"", timeout_s=HANG_S, max_reply_bytes=9))
        await eventually(lambda: b.statistics().num_requests_open == 1)  # the connection stands
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await eventually(lambda: cancelled == 1 and b.statistics().num_requests_open == 0)
        num_tasks = len(asyncio.all_tasks())
        asked = [
            asyncio.ensure_future(a.request(b.address, b"x", timeout_s=HANG_S, max_reply_bytes=9)) for _ in range(8)
        ]
        await eventually(lambda: b.statistics().num_requests_open == 8)
        for one in asked:
            one.cancel()
        assert all(isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*asked, return_exceptions=True))
        await eventually(lambda: cancelled == 9 and b.statistics().num_requests_open == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= num_tasks)

    run(world, scenario)


def test_requests_of_one_peer_and_of_all_are_bounded(world, run, eventually):
    async def scenario(world):
        now = most = 0
        gate = asyncio.Event()

        async def handler(_peer, request):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await gate.wait()
            now -= 1
            return request

        limits = Limits(max_requests=3, max_requests_per_peer=2)
        b = await world.node(handler, limits=limits)
        a, c = await world.node(), await world.node()
        asked = [
            asyncio.ensure_future(a.request(b.address, b"a", timeout_s=HANG_S, max_reply_bytes=9)) for _ in range(6)
        ]
        await eventually(lambda: now == 2)
        asked += [
            asyncio.ensure_future(c.request(b.address, b"c", timeout_s=HANG_S, max_reply_bytes=9)) for _ in range(6)
        ]
        await eventually(lambda: now == 3)
        gate.set()
        assert await asyncio.gather(*asked) == [b"a"] * 6 + [b"c"] * 6
        assert most == 3

    run(world, scenario)


def test_handler_that_never_ends_is_ended(world, run):
    async def scenario(world):
        a, b = await world.node(), await world.node(silent, limits=Limits(answer_timeout_s=0.1))
        with pytest.raises(PeerUnreachable, match="could not answer"):
            await a.request(b.address, b"", timeout_s=HANG_S, max_reply_bytes=9)

    run(world, scenario)


def test_statistics_only_grow(world, run):
    async def scenario(world):
        def numbers(value):
            pairs = [(f.name, getattr(value, f.name)) for f in fields(value)]
            return {n: v for n, v in pairs if isinstance(v, int) and n not in ("num_connections", "num_requests_open")}

        a, b = await world.node(), await world.node()
        before = [x.statistics() for x in (a, b)]
        for n in range(5):
            await a.request(b.address, bytes(1000 * n), timeout_s=HANG_S, max_reply_bytes=10_000)
            if n == 3:
                with pytest.raises(PeerUnreachable):
                    await a.request(b.address, bytes(9), timeout_s=HANG_S, max_reply_bytes=1)
            after = [x.statistics() for x in (a, b)]
            for old, new in zip(before, after, strict=True):
                for part in (lambda s: s, lambda s: s.total):
                    assert all(numbers(part(new))[k] >= v for k, v in numbers(part(old)).items())
            before = after
        assert before[0].wire_sent_bytes > 10_000 < before[1].wire_received_bytes
        await a.close()
        assert a.statistics().wire_sent_bytes >= before[0].wire_sent_bytes

    run(world, scenario)


def test_misuse_is_a_value_error(world, run):
    async def scenario(world):
        a, b = await world.node(), await world.node()
        for options in ({"timeout_s": 0, "max_reply_bytes": 1}, {"timeout_s": 1, "max_reply_bytes": -1}):
            with pytest.raises(ValueError):
                await a.request(b.address, b"", **options)
        with pytest.raises(ValueError, match="starts once"):
            await a.start(silent)
        with pytest.raises(ValueError, match="32 bytes"):
            PeerAddress(id=b"short")
        with pytest.raises(ValueError, match="max_requests"):
            Limits(max_requests=0)

    run(world, scenario)
