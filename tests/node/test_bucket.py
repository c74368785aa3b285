"""Volunteers that share nothing but a folder end equal, whatever the folder does and whoever writes to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from spikemesh.codec import encode_message, read_vouch, sign_vouch
from spikemesh.codec.messages import Snapshot
from spikemesh.crdt import IntegerSum, Replica
from spikemesh.errors import InvalidData, TransportError
from spikemesh.node import BucketCalls, BucketConfig, BucketGossip, Node
from spikemesh.node.clock import inline
from spikemesh.sim.run import GENESIS, RUN_ID, contribution, identity, retraction
from spikemesh.transport.bucket import Bucket
from tests.node.world import World, digests, in_world, publish
from tests.s3_server import make_bucket, s3_server, use_s3

CONFIG = BucketConfig(period_s=1.0, longest_period_s=8.0)


class Faulty:
    """A bucket in which, with some probability, an upload breaks off visibly, a listing is old, an object is not there
    yet, or a call is refused. `log` has what was asked, `bytes_read` what it cost."""

    def __init__(self, inner: Bucket, rng: random.Random, rate: float = 0.0) -> None:
        self.inner, self.rng, self.rate = inner, rng, rate
        self.log: list[tuple[str, str]] = []
        self.bytes_read = 0
        self._old: dict[tuple[str, str], list[tuple[str, int]]] = {}

    def _fails(self, call: str, name: str) -> bool:
        self.log.append((call, name))
        if self.rng.random() < self.rate / 3:
            raise TransportError("permission denied")
        return self.rng.random() < self.rate

    def page(self, folder: str, *, after: str = "", limit: int = 1000) -> list[tuple[str, int]]:
        if self._fails("page", folder) and (folder, after) in self._old:
            return self._old[folder, after]
        listed = self._old[folder, after] = self.inner.page(folder, after=after, limit=limit)
        return listed

    def get(self, name: str, *, max_bytes: int) -> bytes | None:
        if self._fails("get", name):
            return None
        data = self.inner.get(name, max_bytes=max_bytes)
        self.bytes_read += len(data or b"")
        return data

    def put(self, name: str, data: bytes) -> None:
        if self._fails("put", name):
            self.inner.put(name, data[: len(data) // 2])
            raise TransportError("broken off")
        self.inner.put(name, data)
        if self.rng.random() < self.rate:
            self.inner.put(name, data)

    def delete(self, name: str) -> None:
        self._fails("delete", name)
        self.inner.delete(name)


def test_volunteers_over_a_real_s3_server_end_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as endpoint:
        use_s3(monkeypatch, endpoint)
        url = make_bucket("run")

        async def story(world: World) -> None:
            nodes = [await start(world, n, Faulty(Bucket(url), random.Random(n), rate=0.1)) for n in (1, 2)]
            for seq in range(1, 4):
                await publish(nodes[0], *contribution(1, seq))
                await publish(nodes[1], *contribution(2, seq))
            await world.until(lambda: all(len(n.ledger.replica.records) == 6 for n in nodes), timeout_s=1000)
            assert digests(nodes[0]) == digests(nodes[1])

        in_world(tmp_path, story)


def test_a_bucket_that_hangs_is_given_up_and_asked_again(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        hanging = True

        async def offload(work: Callable[..., Any], /, *args: Any) -> Any:
            if hanging:
                await asyncio.Event().wait()
            return work(*args)

        calls = BucketCalls(faulty(world), offload)
        with pytest.raises(TransportError, match="did not answer within 30 s"):
            await calls.page("records")
        hanging = False
        assert await calls.page("records") == []

    in_world(tmp_path, story)


def faulty(world: World, rate: float = 0.0, seed: int = 0) -> Faulty:
    return Faulty(Bucket(str(world.folder / "bucket")), random.Random(seed), rate)


async def start(world: World, number: int, objects: Any, *contacts: Node) -> Node:
    def with_bucket(node: Node) -> None:
        node.add_bucket(
            BucketGossip(
                calls=BucketCalls(objects, inline),
                node=node,
                private_key=identity(number).private_key,
                rng=random.Random(number),
                config=CONFIG,
            )
        )

    return await world.start(number, *contacts, prepare=with_bucket)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_volunteers_that_share_only_a_folder_end_equal(tmp_path: Path, rate: float) -> None:
    async def story(world: World) -> None:
        nodes = [await start(world, number, faulty(world, rate, number)) for number in (1, 2, 3)]
        records = {}
        for seq in range(1, 6):
            for number, node in zip((1, 2, 3), nodes, strict=True):
                records[number, seq], delta = contribution(number, seq)
                await publish(node, records[number, seq], delta)
            await world.clock.sleep(3)
        await publish(nodes[0], retraction(1, 6, records[1, 2]))
        await world.until(lambda: all(len(n.ledger.replica.records) == 16 for n in nodes), timeout_s=3000)
        assert len({digests(node) for node in nodes}) == 1
        assert len(nodes[0].ledger.replica.records.visible) == 14
        assert not any(node.peers.addresses() for node in nodes)

    in_world(tmp_path, story)


def test_a_volunteer_with_both_joins_those_with_one(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        alone = await world.start(1)
        both = await start(world, 2, faulty(world), alone)
        behind = await start(world, 3, faulty(world))
        await publish(alone, *contribution(1, 1))
        await publish(behind, *contribution(3, 1))
        await world.until(lambda: all(len(n.ledger.replica.records) == 2 for n in (alone, both, behind)), timeout_s=120)
        assert len({digests(node) for node in (alone, both, behind)}) == 1

    in_world(tmp_path, story)


def test_what_vanishes_or_is_cut_off_is_written_again_by_whoever_has_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        bucket = faulty(world)
        first = await start(world, 1, bucket)
        record, delta = contribution(1, 1)
        await publish(first, record, delta)
        name = f"records/{record.author.hex()}/0000001-{record.id.hex()}"
        await world.until(lambda: bucket.inner.get(name, max_bytes=5000) == record.wire, timeout_s=60)
        bucket.inner.delete(name)
        await world.until(lambda: bucket.inner.get(name, max_bytes=5000) == record.wire, timeout_s=400)
        bucket.inner.put(name, record.wire[:100])
        early = await start(world, 8, faulty(world))
        assert early.admission.num_refused == 0, "half a record is one that is being written, not a wrong one"
        await world.stop(8)
        await world.until(lambda: bucket.inner.get(name, max_bytes=5000) == record.wire, timeout_s=400)
        for rest in (b"", delta[:40], bytes(len(delta)), delta + b"more"):
            bucket.inner.put(f"blobs/{blake3(delta).hexdigest()}", rest)
            late = await start(world, 9, faulty(world))
            await world.until(lambda late=late: digests(late) == digests(first), timeout_s=400)  # type: ignore[misc]
            await world.stop(9)
            for path in sorted((tmp_path / "node-9").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        assert bucket.inner.page("wanted") == []

    in_world(tmp_path, story)


def test_hostile_objects_change_nothing_and_are_read_ever_less(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        bucket = faulty(world)
        record, _ = contribution(5, 1)
        forged = record.wire[:-1] + bytes([record.wire[-1] ^ 1])
        author = record.author.hex()
        nonsense, _ = contribution(5, 2, delta=b"no delta at all")
        raw = bucket.inner
        raw.put(f"records/{author}/0000001-{blake3(forged[64:]).hexdigest()}", forged)
        raw.put(f"records/{author}/0000001-{record.id.hex()}", forged)
        raw.put(f"records/{author}/0000002-{nonsense.id.hex()}", nonsense.wire)
        raw.put(f"blobs/{blake3(b'no delta at all').hexdigest()}", b"no delta at all")
        raw.put(f"records/{author}/0000003-{'ab' * 32}", bytes(1 << 20))
        raw.put(f"records/{author}/what?", b"x")
        raw.put("records/what?/x", b"x")
        raw.put(f"records/{'cd' * 32}", b"a file in the place of a folder")
        raw.put(f"wanted/{'ef' * 32}", b"")
        raw.put("wanted/what", b"")
        raw.put(f"snapshots/{1:013d}-{blake3(b'x').hexdigest()}", b"x")
        raw.put(f"snapshots/{2:013d}-{'00' * 32}", bytes(1 << 20))
        node = await start(world, 1, bucket)
        before = digests(node)
        await world.clock.sleep(200)
        assert digests(node) == before
        assert node.admission.num_refused == 2  # a signature and a delta; a part of an upload is nobody's fault
        (gossip,) = node.buckets
        await publish(node, *contribution(1, 1))
        await world.until(lambda: gossip.num_put == 1, timeout_s=60)
        looks = gossip._num_looks
        reads = sum(call == "get" and name.startswith("records/") for call, name in bucket.log)
        assert looks > 20 and reads <= 3 * 8
        assert not any(name.endswith("ab" * 32) for call, name in bucket.log if call == "get")

    in_world(tmp_path, story)


def test_ten_thousand_useless_names_do_not_keep_out_a_record(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        folder = tmp_path / "bucket" / "records" / ("00" * 32)
        folder.mkdir(parents=True)
        for number in range(10_000):
            (folder / f"{number:07d}-{blake3(b'%d' % number).hexdigest()}").write_bytes(bytes(65))
        first = await start(world, 1, faulty(world))
        await publish(first, *contribution(1, 1))
        bucket = faulty(world)
        second = await start(world, 2, bucket)
        await world.until(lambda: digests(second) == digests(first), timeout_s=600)
        assert second.buckets[0]._num_looks <= 2
        per_look = sum(call == "get" for call, _ in bucket.log) / second.buckets[0]._num_looks
        assert per_look <= 1024 + 10

    in_world(tmp_path, story)


def test_a_newcomer_takes_the_newest_vouched_snapshot_and_not_the_history(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        first = await start(world, 1, faulty(world))
        second = await start(world, 2, faulty(world))
        for seq in range(1, 131):
            await publish(first, *contribution(1, seq))
        await world.until(lambda: digests(first) == digests(second), timeout_s=400)
        bucket = faulty(world)
        await world.until(lambda: len(bucket.inner.page("snapshots")) > 0, timeout_s=400)
        await world.until(
            lambda: any(len(bucket.inner.page(f"vouches/{name}")) > 1 for name, _ in bucket.inner.page("vouches")),
            timeout_s=400,
        )
        late = await start(world, 3, bucket)
        assert late.started_from_snapshot and late.num_vouchers == 1
        assert late.admission.num_deltas_fetched < 20
        await world.until(lambda: digests(late) == digests(first), timeout_s=60)
        assert (
            late.ledger.resolve(late.ledger.replica).tobytes() == first.ledger.resolve(first.ledger.replica).tobytes()
        )

    in_world(tmp_path, story)


def test_a_snapshot_of_which_two_say_two_things_is_not_taken(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        bucket = faulty(world)
        first = await start(world, 1, bucket)
        for seq in range(1, 10):
            await publish(first, *contribution(1, seq))
        await world.until(lambda: first.buckets[0].num_put == 9, timeout_s=60)
        good = first.ledger.replica
        liar = await world.start(7)
        liar.ledger.replica = Replica(good.records, IntegerSum.zero(300))
        offer = liar.snapshots.offer()
        for digest in (offer.records_hash, *offer.chunk_hashes):
            bucket.inner.put(f"blobs/{digest.hex()}", liar.snapshots.part(digest) or b"")
        data = encode_message(offer)
        bucket.inner.put(f"snapshots/{5:013d}-{blake3(data).hexdigest()}", data)
        vouch = sign_vouch(RUN_ID, offer.set_digest, offer.sum_digest, identity(7).private_key)
        bucket.inner.put(f"vouches/{offer.set_digest.hex()}/{identity(7).id.hex()}", vouch)
        await world.until(lambda: len(bucket.inner.page(f"vouches/{offer.set_digest.hex()}")) == 2, timeout_s=60)
        late = await start(world, 3, faulty(world))
        assert not late.started_from_snapshot
        await world.until(lambda: digests(late) == digests(first), timeout_s=60)

    in_world(tmp_path, story)


def test_a_bucket_that_refuses_never_holds_up_peers(tmp_path: Path) -> None:
    class Refusing:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            raise TransportError("access denied")

    async def story(world: World) -> None:
        first = await start(world, 1, Refusing())
        second = await start(world, 2, Refusing(), first)
        await publish(first, *contribution(1, 1))
        await world.until_equal(first, second, timeout_s=5)
        await world.clock.sleep(100)
        assert first.buckets[0].statistics().problem == "access denied"

    in_world(tmp_path, story)


def test_a_run_is_found_in_its_bucket_by_its_id_alone(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        bucket = faulty(world)
        calls = BucketCalls(bucket, inline)
        with pytest.raises(TransportError, match="does not hold run"):
            await calls.genesis(RUN_ID)
        await calls.found(GENESIS, partial(inline, lambda: b"start"))
        assert await calls.genesis(RUN_ID) == GENESIS
        with pytest.raises(InvalidData, match="another run"):
            await calls.genesis(bytes(32))

    in_world(tmp_path, story)


def test_a_vouch_is_bound_to_run_set_sum_and_signer() -> None:
    key, me = identity(1).private_key, identity(1).id
    data = sign_vouch(RUN_ID, b"s" * 32, b"t" * 32, key)
    assert read_vouch(data, run_id=RUN_ID, set_digest=b"s" * 32, author=me) == b"t" * 32
    for changed in (
        partial(read_vouch, data[:-1], run_id=RUN_ID, set_digest=b"s" * 32, author=me),
        partial(read_vouch, data, run_id=bytes(32), set_digest=b"s" * 32, author=me),
        partial(read_vouch, data, run_id=RUN_ID, set_digest=b"u" * 32, author=me),
        partial(read_vouch, data, run_id=RUN_ID, set_digest=b"s" * 32, author=identity(2).id),
        partial(read_vouch, b"u" + data[1:], run_id=RUN_ID, set_digest=b"s" * 32, author=me),
    ):
        with pytest.raises(InvalidData, match="vouch"):
            changed()


def test_a_snapshot_of_other_sizes_is_not_one_of_this_run(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        bucket = faulty(world)
        empty = bytes(32)
        offer = Snapshot(
            set_digest=empty, sum_digest=empty, records_hash=empty, records_bytes=1 << 39, chunk_hashes=(empty,)
        )
        data = encode_message(offer)
        bucket.inner.put(f"snapshots/{5:013d}-{blake3(data).hexdigest()}", data)
        node = await start(world, 1, bucket)
        assert not node.started_from_snapshot and bucket.bytes_read < 10_000

    in_world(tmp_path, story)
