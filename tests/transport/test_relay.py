"""Peers that know nothing of each other but a key and a relay. What they then find directly is theirs to use."""

from __future__ import annotations

import pytest
from tests.hang import HANG_S
from tests.network.relay import Relay

from spikemesh.errors import PeerUnreachable
from spikemesh.transport import PeerAddress
from spikemesh.transport.p2p import P2PTransport


def through(url, node):
    return PeerAddress(id=node.address.id, relay_url=url)


def test_a_request_and_its_reply_go_through_a_relay(p2p_world, run):
    async def scenario(world):
        async def handler(peer, request):
            return peer + request

        relay = Relay()
        async with relay.listening("127.0.0.1", 0) as url:
            b = await world.node(handler, relay_url=url)
            assert await b.is_relayed(timeout_s=HANG_S)
            a = await world.node(relay_url=url)  # dials at once, before it is at home at the relay itself
            message = world.rng.randbytes(1 << 20)
            reply = await a.request(through(url, b), message, timeout_s=HANG_S, max_reply_bytes=2 << 20)
            assert reply == a.address.id + message
            assert relay.num_passed_on > 2

    run(p2p_world, scenario)


def test_the_address_names_the_relay_whether_it_answers_or_not(p2p_world, run):
    async def scenario(world):
        node = await world.node(relay_url="HTTP://127.0.0.1:9")
        assert node.address.relay_url == "http://127.0.0.1:9/"
        assert not await node.is_relayed(timeout_s=0.1)
        assert (await world.node()).address.relay_url is None

    run(p2p_world, scenario)


def test_only_the_own_relay_is_contacted(p2p_world, run):
    """A peer may say any URL of itself; to open it would be to do its bidding."""

    async def scenario(world):
        own, other = Relay(), Relay()
        async with own.listening("127.0.0.1", 0) as own_url, other.listening("127.0.0.1", 0) as other_url:
            a, b = await world.node(relay_url=own_url), await world.node(relay_url=other_url)
            assert await a.is_relayed(timeout_s=HANG_S) and await b.is_relayed(timeout_s=HANG_S)
            with pytest.raises(PeerUnreachable):
                await a.request(through(other_url, b), b"", timeout_s=2, max_reply_bytes=9)
            assert await a.request(b.address, b"direct", timeout_s=HANG_S, max_reply_bytes=9) == b"direct"
            assert own.num_clients == other.num_clients == 1

    run(p2p_world, scenario)


def test_a_relay_that_is_no_url():
    with pytest.raises(ValueError, match="relay_url is a URL such as"):
        P2PTransport(secret_key=bytes(32), relay_url="http://")
