"""What others can make a node remember, each bound exceeded. The table is docs/design/limits.md."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from spikemesh.codec import Refused, decode_message, encode_message
from spikemesh.crdt import SyncMessage
from spikemesh.node import Node, admission
from spikemesh.node.gossip import MAX_ADMISSIONS, MAX_INBOX
from spikemesh.sim.run import contribution, identity
from tests.node.world import World, in_world


def test_a_full_inbox_takes_nothing_more_until_it_has_room(tmp_path: Path) -> None:
    withholds = False

    def link(sender: bytes, receiver: bytes, rng: random.Random) -> float | None:
        return None if withholds and sender == identity(2).id else 0.01

    async def story(world: World) -> None:
        nonlocal withholds
        node = await world.start(1)
        sender = await world.start(2, node)
        withholds = True

        async def push(seq: int) -> bool:
            record, _ = contribution(2, seq)
            message = SyncMessage(set_digest=bytes(32), sum_digest=bytes(32), records=(record.wire,))
            reply = decode_message(await node.serve(sender.id, encode_message(message)))
            await world.clock.sleep(0.001)
            return not (isinstance(reply, Refused) and reply.reason == "busy")

        taken = [await push(seq) for seq in range(1, 80)]
        most = MAX_INBOX + MAX_ADMISSIONS
        assert all(taken[:MAX_INBOX]) and not any(taken[most + 1 :])
        await world.clock.sleep(600.0)
        assert await push(100)

    in_world(tmp_path, story, link=link)


def test_refusals_are_remembered_up_to_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_REFUSED", 4)

    async def refusals(node: Node, garbage: list[bytes]) -> int:
        before = node.admission.num_refused
        await node.admission.admit(garbage, node.transport.address)
        return node.admission.num_refused - before

    async def story(world: World) -> None:
        node = await world.start(1)
        garbage = [bytes([number]) * 50 for number in range(10)]
        assert await refusals(node, garbage) == 10
        assert await refusals(node, garbage[-4:]) == 0
        assert await refusals(node, garbage[:3]) == 3

    in_world(tmp_path, story)
