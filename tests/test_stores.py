"""The stores: one suite for all, against a real disk, a real Redis and a real MinIO, whatever befalls these."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import random
import re
import shutil
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from traitlets import TraitError
from traitlets.config import Config, Configurable

from kernelgate import settings
from kernelgate.errors import BlobsMissing, LeaseLost, StoreError, StoreFull
from kernelgate.stores.choice import Stores
from kernelgate.stores.embedded import FILE_BYTES, EmbeddedStore
from kernelgate.stores.folder import default_state_dir
from kernelgate.stores.heads import Heads
from kernelgate.stores.minio import MinioStore
from kernelgate.stores.redis import RedisStore
from kernelgate.stores.store import BlobStore, Commit, Lease, SessionStore, check_names
from tests.server import new_id
from tests.services import PASSWORD, MinioServer, RedisServer

T = TypeVar("T")
AnyStore = TypeVar("AnyStore", bound=BlobStore)

MIB = 1 << 20
WHOLE_TEST = 120.0
BOUND = 15.0
"""Seconds in which a store that does not work must have said so."""

LAG = 0.5
"""Seconds for which a store may hold the loop at most."""


def run(scenario: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(WHOLE_TEST):
            return await scenario

    return asyncio.run(bounded())


@contextlib.asynccontextmanager
async def opened(store: AnyStore) -> AsyncIterator[AnyStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def redis_store(server: RedisServer, **traits: Any) -> RedisStore:
    given = {"host": "127.0.0.1", "port": server.port, "password": PASSWORD, "db": 9, **traits}
    return RedisStore(**{"socket_timeout": 5, "socket_connect_timeout": 5, **given})


def minio_store(server: MinioServer, **traits: Any) -> MinioStore:
    keys = {"access_key": server.access_key, "secret_key": server.secret_key}
    given = {"endpoint": server.address, "bucket": f"bucket-{new_id()}", **keys, **traits}
    return MinioStore(**{"timeout": 1, "connect_timeout": 1, **given})


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    """The Redis, with nothing in the database of these tests."""
    assert redis_server.ask("FLUSHALL") == "+OK"
    return redis_server


def maker(kind: str, request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Return what makes stores that all see the same."""
    if kind == "redis":
        server = request.getfixturevalue("redis")
        return lambda: redis_store(server)
    if kind == "minio":
        minio = request.getfixturevalue("minio_server")
        bucket = f"bucket-{new_id()}"
        return lambda: minio_store(minio, bucket=bucket)
    folder = str(request.getfixturevalue("tmp_path") / "state")
    return lambda: EmbeddedStore(state_dir=folder)


@pytest.fixture(params=["embedded", "redis", "minio"])
def blob_store(request: pytest.FixtureRequest) -> Callable[[], BlobStore]:
    return maker(request.param, request)


@pytest.fixture(params=["embedded", "redis"])
def session_store(request: pytest.FixtureRequest) -> Callable[[], SessionStore]:
    return maker(request.param, request)


def change(
    head: bytes = b"head",
    blobs: Mapping[str, bytes] | None = None,
    *,
    key: str = "o/s",
    keep: Collection[str] = (),
    drop: Collection[str] = (),
    ttl: float = 60,
    used_at: float | None = None,
    index_ttl: float = 600,
    blob_ttl: float | None = None,
) -> Commit:
    used_at = time.time() if used_at is None else used_at
    return Commit(
        key,
        key.partition("/")[0],
        head,
        b"info of " + head,
        blobs or {},
        keep,
        drop,
        ttl,
        index_ttl,
        used_at,
        blob_ttl,
    )


async def lease(store: SessionStore, key: str = "o/s", holder: str = "a", ttl: float = 30) -> Lease:
    found = await store.acquire(key, holder, ttl)
    assert found is not None
    return found


# --- blobs


SIZES = [0, 1, FILE_BYTES - 1, FILE_BYTES, FILE_BYTES + 1, 2 * MIB]


def test_blobs_of_all_sizes_come_back(blob_store: Callable[[], BlobStore]) -> None:
    blobs = {f"b/space/{size}": random.randbytes(size) for size in SIZES}

    async def scenario() -> None:
        async with opened(blob_store()) as store:
            await store.check()
            await store.put(blobs)
            assert await store.get(blobs) == blobs
        async with opened(blob_store()) as store:
            assert await store.get([*blobs, "b/space/none"]) == blobs

    run(scenario())


def test_a_blob_is_replaced_by_one_of_the_same_name(blob_store: Callable[[], BlobStore]) -> None:
    large, small = random.randbytes(FILE_BYTES * 2), b"small"

    async def scenario() -> None:
        async with opened(blob_store()) as store:
            for blob in (small, large, large[::-1], small):
                await store.put({"b/x": blob})
                assert await store.get(["b/x"]) == {"b/x": blob}

    run(scenario())


def test_what_is_deleted_is_gone_and_deleting_what_is_not_there_is_no_error(
    blob_store: Callable[[], BlobStore],
) -> None:
    async def scenario() -> None:
        async with opened(blob_store()) as store:
            await store.put({"b/1": b"1", "b/2": bytes(FILE_BYTES), "b/3": b"3"})
            await store.delete(["b/1", "b/2", "b/none"])
            await store.delete(["b/1", "b/none"])
            await store.delete([])
            assert await store.get(["b/1", "b/2", "b/3"]) == {"b/3": b"3"}

    run(scenario())


NAMES = [
    "x",
    "n" * 200,
    "b/" + "".join(map(chr, range(ord("!"), ord("~") + 1))).replace("/", ""),
    "b/a b".replace(" ", "%20"),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_within_the_limits_is_taken(blob_store: Callable[[], BlobStore], name: str) -> None:
    async def scenario() -> None:
        async with opened(blob_store()) as store:
            await store.put({name: b"content"})
            assert await store.get([name]) == {name: b"content"}
            assert [(item.name, item.size) for item in await store.list(name[:100])] == [(name, 7)]
            await store.delete([name])
            assert await store.get([name]) == {}

    run(scenario())


@pytest.mark.parametrize("name", ["", "n" * 201, "/x", "x/", "a//b", "a/../b", "./a", "a b", "ä", "a\nb", "a\x00"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII characters"):
        check_names(["good", name])


def test_a_list_has_what_begins_with_the_prefix_and_when_it_was_stored(
    blob_store: Callable[[], BlobStore],
) -> None:
    blobs = {"b/one/1": b"1", "b/one/22": bytes(FILE_BYTES), "b/on[e]*/3": b"333", "c/4": b"4"}

    async def scenario() -> None:
        async with opened(blob_store()) as store:
            assert await store.list("") == []
            await store.put(blobs)
            for prefix in ("", "b/", "b/one/", "b/one/2", "b/on[e]*/", "none"):
                found = {item.name: item.size for item in await store.list(prefix)}
                assert found == {name: len(blob) for name, blob in blobs.items() if name.startswith(prefix)}
            assert all(abs(item.stored_at - time.time()) < 60 for item in await store.list(""))

    run(scenario())


def test_many_use_the_store_at_once(blob_store: Callable[[], BlobStore]) -> None:
    async def scenario() -> None:
        async with opened(blob_store()) as store:

            async def use(number: int) -> None:
                blobs = {f"b/{number}/{size}": random.randbytes(size) for size in (10, FILE_BYTES)}
                await store.put(blobs)
                assert await store.get(blobs) == blobs

            await asyncio.gather(*map(use, range(100)))
            assert len(await store.list("b/")) == 200

    run(scenario())


def test_a_store_that_is_not_open_says_so(blob_store: Callable[[], BlobStore]) -> None:
    async def scenario() -> None:
        store = blob_store()
        for _again in range(2):
            with pytest.raises(StoreError, match="not open"):
                await store.put({"b/1": bytes(FILE_BYTES)})
            with pytest.raises(StoreError, match="not open"):
                await store.get(["b/1"])
            await store.open()
            await store.put({"b/1": b"1"})
            await store.close()

    run(scenario())


# --- leases


def test_one_holder_at_a_time_has_the_lease(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            first = await lease(store)
            assert (first.key, first.holder, first.head) == ("o/s", "a", None)
            assert await store.acquire("o/s", "b", 30) is None
            assert await store.acquire("o/other", "b", 30) is not None
            await store.release(first)
            second = await lease(store, holder="b")
            assert second.token > first.token
            assert await store.acquire("o/s", "a", 30) is None

    run(scenario())


def test_of_many_who_ask_at_once_one_gets_the_lease(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            asked = await asyncio.gather(*(store.acquire("o/s", f"holder-{n}", 30) for n in range(50)))
            assert len([found for found in asked if found is not None]) == 1

    run(scenario())


def test_a_dead_holder_and_the_holder_itself_do_not_count(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            first = await lease(store)
            again = await lease(store)
            assert await store.acquire("o/s", "b", 30, dead=["c", "d"]) is None
            taken = await store.acquire("o/s", "b", 30, dead=["c", "a"])
            assert taken is not None
            assert first.token < again.token < taken.token
            for old in (first, again):
                assert not await store.renew(old, 30)

    run(scenario())


def test_a_lease_that_ran_out_is_good_until_somebody_takes_it(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            old = await lease(store, ttl=0.05)
            await asyncio.sleep(0.1)
            await store.commit(old, change(b"late"))
            assert await store.renew(old, 0.05)
            assert await store.acquire("o/s", "b", 30) is None
            await asyncio.sleep(0.1)
            new = await lease(store, holder="b")
            assert new.head == b"late"
            with pytest.raises(LeaseLost):
                await store.commit(old, change(b"too late"))

    run(scenario())


def test_who_lost_the_lease_changes_nothing_any_more(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            old = await lease(store)
            await store.commit(old, change(b"1", {"b/1": b"1"}))
            new = await store.acquire("o/s", "b", 30, dead=["a"])
            assert new is not None
            for blobs in ({"b/2": b"2"}, {"b/2": bytes(FILE_BYTES)}):
                with pytest.raises(LeaseLost, match="o/s"):
                    await store.commit(old, change(b"2", blobs, drop=["b/1"]))
            with pytest.raises(LeaseLost):
                await store.remove(old, "o", ["b/1"])
            with pytest.raises(LeaseLost):
                await store.evict(old, ["b/1"])
            assert not await store.renew(old, 30)
            await store.release(old)
            assert await store.acquire("o/s", "c", 30) is None
            assert (await store.head("o/s"), await store.get(["b/1"])) == (b"1", {"b/1": b"1"})
            await store.release(new)
            with pytest.raises(LeaseLost):
                await store.commit(old, change(b"3"))

    run(scenario())


def test_tokens_grow_from_one_opening_to_the_next(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> list[int]:
        tokens = []
        for _opening in range(3):
            async with opened(session_store()) as store:
                tokens += [(await lease(store)).token, (await lease(store)).token]
        return tokens

    tokens = run(scenario())
    assert tokens == sorted(set(tokens))


def test_a_lock_is_one_holders_until_it_ends(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            assert await store.lock("archiver", "a", 30)
            assert await store.lock("archiver", "a", 30)
            assert not await store.lock("archiver", "b", 30)
            assert await store.lock("other", "b", 30)
            await store.unlock("archiver", "b")
            assert not await store.lock("archiver", "b", 30)
            await store.unlock("archiver", "a")
            assert await store.lock("archiver", "b", 0.05)
            await asyncio.sleep(0.1)
            assert await store.lock("archiver", "a", 30)

    run(scenario())


# --- commits


def test_a_commit_is_there_with_all_that_belongs_to_it(session_store: Callable[[], SessionStore]) -> None:
    blobs = {f"b/{size}": random.randbytes(size) for size in SIZES}

    async def scenario() -> None:
        async with opened(session_store()) as store:
            held = await lease(store)
            await store.commit(held, change(b"one", blobs))
            assert await store.head("o/s") == b"one"
            await store.commit(held, change(b"\x00two\xff", keep=blobs))
            await store.release(held)
        async with opened(session_store()) as store:
            assert (await lease(store)).head == b"\x00two\xff"
            assert await store.get(blobs) == blobs
            assert await store.sessions("o") == {"o/s": b"info of \x00two\xff"}

    run(scenario())


def test_a_commit_drops_what_it_names_and_neither_new_nor_kept_blobs(
    session_store: Callable[[], SessionStore],
) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            held = await lease(store)
            await store.commit(held, change(b"1", {"b/1": b"1", "b/2": bytes(FILE_BYTES), "b/3": b"3"}))
            await store.commit(
                held, change(b"2", {"b/4": b"4"}, keep=["b/3"], drop=["b/1", "b/2", "b/3", "b/4", "b/x"])
            )
            assert (await store.get(["b/1", "b/2", "b/3", "b/4"])).keys() == {"b/3", "b/4"}

    run(scenario())


def test_a_commit_that_builds_on_missing_blobs_changes_nothing(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            held = await lease(store)
            await store.commit(held, change(b"1", {"b/1": b"1", "b/2": b"2"}))
            with pytest.raises(BlobsMissing) as caught:
                await store.commit(held, change(b"2", {"b/3": b"3"}, keep=["b/x", "b/1", "b/y"], drop=["b/2"]))
            assert caught.value.names == {"b/x", "b/y"}
            assert await store.head("o/s") == b"1"
            assert (await store.get(["b/1", "b/2"])).keys() == {"b/1", "b/2"}
            await store.commit(held, change(b"2", {"b/3": b"3", "b/x": b"x"}, keep=["b/1"]))

    run(scenario())


def test_fifty_mb_are_committed_without_holding_up_the_loop(session_store: Callable[[], SessionStore]) -> None:
    blobs = {f"b/{number}": random.randbytes(2 * MIB) for number in range(25)}

    async def scenario() -> float:
        async with opened(session_store()) as store:
            held = await lease(store)
            lags, watching = [0.0], True

            async def watch() -> None:
                while watching:
                    before = time.monotonic()
                    await asyncio.sleep(0.005)
                    lags.append(time.monotonic() - before)

            watcher = asyncio.ensure_future(watch())
            await store.commit(held, change(b"large", blobs))
            found = await store.get(blobs)
            watching = False
            await watcher
            assert found == blobs
            return max(lags)

    assert run(scenario()) < LAG


def test_a_hundred_sessions_commit_at_once(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:

            async def use(number: int) -> None:
                key = f"o{number % 3}/s{number}"
                held = await lease(store, key)
                blobs = {f"b/{number}/{size}": random.randbytes(size) for size in (5000, FILE_BYTES)}
                await store.commit(held, change(b"head", blobs, key=key))
                await store.commit(held, change(b"head %d" % number, key=key, keep=blobs))
                assert await store.get(blobs) == blobs

            await asyncio.gather(*map(use, range(100)))
            heads = await asyncio.gather(*(store.head(f"o{number % 3}/s{number}") for number in range(100)))
            assert heads == [b"head %d" % number for number in range(100)]
            assert sum([len(await store.sessions(f"o{owner}")) for owner in range(3)]) == 100

    run(scenario())


def test_of_commits_that_come_together_each_fails_alone(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:

            async def use(number: int) -> None:
                key = f"o/{number}"
                held = await lease(store, key)
                await store.commit(
                    held, change(b"head", {f"b/{number}": b"x"}, key=key, keep=["b/x"] * (number % 2))
                )

            outcomes = await asyncio.gather(*map(use, range(20)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [type(None), BlobsMissing] * 10
            assert len(await store.sessions("o")) == 10

    run(scenario())


def test_a_commit_that_is_cancelled_is_there_or_not_but_never_in_part(
    session_store: Callable[[], SessionStore],
) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            await store.commit(await lease(store), change(b"0", {"b/0": bytes(FILE_BYTES)}))
            held, done = await lease(store), 0
            for number in range(1, 60):
                assert held.head is not None
                old = f"b/{int(held.head)}"
                blobs = {f"b/{number}": random.randbytes(FILE_BYTES), f"b/{number}/small": b"small"}
                work = asyncio.ensure_future(store.commit(held, change(b"%d" % number, blobs, drop=[old])))
                await asyncio.sleep(random.random() * 0.004)
                work.cancel()
                await asyncio.wait([work])
                held = await lease(store)
                assert held.head is not None
                assert len(await store.get([f"b/{int(held.head)}"])) == 1
                assert work.cancelled() or int(held.head) == number
                done += int(held.head) == number
            assert 0 < done < 60

    run(scenario())


# --- time


def test_what_has_expired_is_seen_no_more(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            held = await lease(store)
            await store.put({"b/put": b"stays"})
            await store.commit(held, change(b"1", {"b/1": b"1", "b/2": bytes(FILE_BYTES)}, ttl=0.3, index_ttl=0.9))
            await store.commit(held, change(b"2", {"b/3": b"3"}, keep=["b/1"], ttl=0.6, index_ttl=0.9))
            await asyncio.sleep(0.4)
            assert (await store.get(["b/1", "b/2", "b/3"])).keys() == {"b/1", "b/3"}
            await asyncio.sleep(0.3)
            assert await store.head("o/s") is None
            assert (await lease(store)).head is None
            assert await store.get(["b/1", "b/2", "b/3", "b/put"]) == {"b/put": b"stays"}
            assert [item.name for item in await store.list("b/")] == ["b/put"]
            with pytest.raises(BlobsMissing):
                await store.commit(await lease(store), change(b"3", keep=["b/1"]))
            assert await store.sessions("o") == {"o/s": b"info of 2"}
            await asyncio.sleep(0.4)
            assert await store.sessions("o") == {}

    run(scenario())


def test_blobs_live_as_long_as_they_were_given_whatever_the_head_does(
    session_store: Callable[[], SessionStore],
) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            held = await lease(store)
            await store.put({"b/put": bytes(FILE_BYTES), "b/short": b"short"}, 0.3)
            await store.commit(held, change(b"1", {"b/1": b"1"}, keep=["b/put"], ttl=0.3, blob_ttl=60))
            await asyncio.sleep(0.4)
            assert await store.head("o/s") is None
            assert (await store.get(["b/1", "b/put", "b/short"])).keys() == {"b/1", "b/put"}

    run(scenario())


def test_a_sweep_removes_what_has_expired_and_nothing_else(session_store: Callable[[], SessionStore]) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            for number in range(30):
                key, ttl = f"o/{number}", 0.05 if number % 3 else 60
                blobs = {f"b/{number}/1": b"1", f"b/{number}/2": bytes(FILE_BYTES)}
                await store.commit(await lease(store, key), change(b"1", blobs, key=key, ttl=ttl, index_ttl=ttl))
            await asyncio.sleep(0.2)
            assert await store.sweep() >= 20
            assert await store.sweep() == 0
            assert len(await store.list("b/")) == 20
            assert sorted(await store.sessions("o")) == sorted(f"o/{number}" for number in range(0, 30, 3))
            assert len(await store.idle(time.time() + 1, 100)) == 10

    run(scenario())


def test_idle_sessions_come_oldest_first_and_only_those_with_a_head(
    session_store: Callable[[], SessionStore],
) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            for key, used_at in {"o/3": 3.25, "o/1": 1.5, "p/2": 2.0, "o/4": 4.0, "o/5": 5.0}.items():
                await store.commit(await lease(store, key), change(key=key, used_at=used_at))
            assert await store.idle(4.0, 10) == ["o/1", "p/2", "o/3"]
            assert await store.idle(10.0, 2) == ["o/1", "p/2"]
            await store.commit(await lease(store, "o/1"), change(key="o/1", used_at=6.0))
            await store.evict(await lease(store, "p/2"), [])
            await store.remove(await lease(store, "o/5"), "o", [])
            assert await store.idle(10.0, 10) == ["o/3", "o/4", "o/1"]

    run(scenario())


def test_what_is_removed_is_gone_and_what_is_evicted_stays_in_the_index(
    session_store: Callable[[], SessionStore],
) -> None:
    async def scenario() -> None:
        async with opened(session_store()) as store:
            removed, evicted = await lease(store, "o/removed"), await lease(store, "o/evicted")
            for held in (removed, evicted):
                blobs = {f"b/{held.key}/1": b"1", f"b/{held.key}/2": bytes(FILE_BYTES), f"b/{held.key}/3": b"3"}
                await store.commit(held, change(b"head", blobs, key=held.key))
            assert (await store.sessions("o")).keys() == {"o/removed", "o/evicted"}
            await store.remove(removed, "o", ["b/o/removed/1", "b/o/removed/2"])
            await store.evict(evicted, ["b/o/evicted/1", "b/o/evicted/2"])
            assert [await store.head("o/removed"), await store.head("o/evicted")] == [None, None]
            assert {item.name for item in await store.list("b/")} == {"b/o/removed/3", "b/o/evicted/3"}
            assert await store.sessions("o") == {"o/evicted": b"info of head"}
            assert await store.sessions("nobody") == {}

    run(scenario())


# --- Redis, and what befalls it


def test_keys_in_redis_live_exactly_as_long_as_they_were_given(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(redis_store(redis, db=0)) as store:
            held = await lease(store)
            await store.put({"b/put": b"x"})
            await store.commit(held, change(b"1", {"b/1": b"1", "b/2": b"2"}, ttl=1000, index_ttl=5000))
            await store.commit(held, change(b"2", {"b/3": b"3"}, keep=["b/1"], ttl=2000, index_ttl=4000))

    run(scenario())
    lives = {
        "head:o/s": 2000,
        "blob:b/1": 2000,
        "blob:b/3": 2000,
        "blob:b/2": 1000,
        "index:o": 5000,
        "ends:o": 5000,
    }
    for key, seconds in lives.items():
        assert seconds - 30 <= int(redis.ask("TTL", f"kernelgate:{key}")[1:]) <= seconds
    assert redis.ask("TTL", "kernelgate:blob:b/put") == ":-1"


def test_redis_that_was_killed_is_told_at_once_and_used_again_when_it_is_back(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(redis_store(redis)) as store:
            held = await lease(store)
            await store.commit(held, change(b"1", {"b/1": b"1"}))
            with redis.killed():
                for work in (
                    store.check(),
                    store.commit(held, change(b"2")),
                    store.get(["b/1"]),
                    store.head("o/s"),
                ):
                    with within(BOUND), pytest.raises(StoreError, match="cannot be reached: look whether it runs"):
                        await work
            await asyncio.gather(*(store.check() for _n in range(30)))
            assert (await store.head("o/s"), await store.get(["b/1"])) == (b"1", {"b/1": b"1"})
            await store.commit(held, change(b"2", keep=["b/1"]))
            assert await store.acquire("o/s", "b", 30) is None

    run(scenario())


def test_redis_that_hangs_is_told_in_time_and_a_commit_that_it_does_late_replaces_none_since(
    redis: RedisServer,
) -> None:
    async def scenario() -> None:
        async with opened(redis_store(redis, socket_timeout=1, socket_connect_timeout=1)) as store:
            held = await lease(store)
            await store.commit(held, change(b"1", {"b/1": b"1"}))
            with redis.paused(), within(2 * BOUND):
                for number in range(5):
                    with pytest.raises(StoreError, match="did not answer in time"):
                        await store.commit(held, change(b"late %d" % number))
                refused = await asyncio.gather(*(store.check() for _n in range(40)), return_exceptions=True)
                assert {type(each) for each in refused} == {StoreError}
            await store.commit(held, change(b"2", keep=["b/1"]))
            await asyncio.sleep(0.3)
            assert (await store.head("o/s"), await store.get(["b/1"])) == (b"2", {"b/1": b"1"})

    run(scenario())


def test_redis_that_goes_down_amid_commits_keeps_every_one_that_was_acknowledged(redis: RedisServer) -> None:
    acknowledged = dict.fromkeys(range(8), 0)

    async def write(store: RedisStore, number: int) -> None:
        key = f"o/{number}"
        held = await lease(store, key)
        for count in range(1, 1000):
            content = {f"b/{number}/{count}": b"%d" % count * 20_000}
            await store.commit(held, change(b"%d" % count, content, key=key, drop=[f"b/{number}/{count - 1}"]))
            acknowledged[number] = count

    async def scenario() -> None:
        async with opened(redis_store(redis)) as store:
            writing = [asyncio.ensure_future(write(store, number)) for number in acknowledged]
            await asyncio.sleep(0.5)
            with redis.killed():
                outcomes = await asyncio.gather(*writing, return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} == {StoreError}
            for number, count in acknowledged.items():
                head = await store.head(f"o/{number}")
                assert head is not None
                assert count <= int(head) <= count + 1
                name = f"b/{number}/{int(head)}"
                assert await store.get([name]) == {name: head * 20_000}

    run(scenario())
    assert min(acknowledged.values()) > 0


def test_redis_without_room_is_told_and_used_again_when_it_has_some(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(redis_store(redis)) as store:
            held = await lease(store)
            await store.commit(held, change(b"1", {"b/1": b"1"}))
            assert redis.ask("CONFIG", "SET", "maxmemory", "1") == "+OK"
            try:
                with pytest.raises(StoreFull, match="maxmemory"):
                    await store.commit(held, change(b"2", {"b/2": b"2"}))
                with pytest.raises(StoreFull):
                    await store.commit(held, change(b"2", keep=["b/1"], drop=["b/1"]))
                assert (await store.head("o/s"), await store.get(["b/1"])) == (b"1", {"b/1": b"1"})
                await store.evict(held, ["b/1"])
                await store.release(held)
            finally:
                redis.ask("CONFIG", "SET", "maxmemory", "0")
            held = await lease(store, holder="b")
            assert held.head is None
            await store.commit(held, change(b"2", {"b/2": b"2"}))

    run(scenario())


def test_a_replica_that_cannot_be_written_to_is_told(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(redis_store(redis)) as store:
            held = await lease(store)
            assert redis.ask("REPLICAOF", "127.0.0.1", "1") == "+OK"
            try:
                for work in (store.commit(held, change(b"2", {"b/2": b"2"})), store.put({"b/1": b"1"})):
                    with pytest.raises(StoreError, match="is a replica"):
                        await work
            finally:
                redis.ask("REPLICAOF", "NO", "ONE")
            await store.commit(held, change(b"2"))

    run(scenario())


def test_redis_that_forgot_everything_is_filled_again(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(redis_store(redis)) as store:
            held = await lease(store)
            await store.commit(held, change(b"1", {"b/1": b"1"}))
            redis.ask("FLUSHALL")
            redis.ask("SCRIPT", "FLUSH")
            with pytest.raises(BlobsMissing):
                await store.commit(held, change(b"2", keep=["b/1"]))
            await store.commit(held, change(b"2", {"b/1": b"1"}))
            assert await store.renew(held, 30)
            assert await store.acquire("o/s", "b", 30) is None

    run(scenario())


def test_a_wrong_password_for_redis_is_told_but_not_quoted(redis: RedisServer) -> None:
    wrong = "wrong-secret"

    async def scenario(store: RedisStore) -> str:
        async with opened(store):
            with pytest.raises(StoreError, match="refuses the password: set REDIS_PASSWORD") as caught:
                await store.check()
            return str(caught.value)

    for given in (wrong, ""):
        assert wrong not in run(scenario(redis_store(redis, password=given)))
    assert wrong not in run(scenario(redis_store(redis, url=f"redis://:{wrong}@{redis.address}")))


@pytest.mark.parametrize("form", ["{password}", ":{password}", "default:{password}"])
def test_a_url_alone_leads_to_redis(redis: RedisServer, form: str) -> None:
    url = f"redis://{form.format(password=PASSWORD)}@{redis.address}/3"

    async def scenario() -> None:
        async with opened(redis_store(redis, url=url, host="nowhere.invalid", password="wrong")) as store:
            await store.put({"b/1": b"1"})
            assert PASSWORD not in store.place

    run(scenario())
    assert redis.ask("MOVE", "kernelgate:blob:b/1", "3") == ":0"  # it is not in the first database


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://localhost", "redis://localhost:port/0", "redis://localhost/0?nonsense=1"]
)
def test_a_url_that_redis_does_not_have_is_a_mistake_in_the_configuration(url: str) -> None:
    with pytest.raises(TraitError):
        RedisStore(url=url)
    _config, (problem,) = settings.environment_config([RedisStore], {"REDIS_URL": url})
    assert problem.startswith("REDIS_URL must be a URL such as redis://")
    assert url not in problem


# --- MinIO, and what befalls it


def test_minio_that_was_killed_is_told_and_used_again_when_it_is_back(minio_server: MinioServer) -> None:
    blobs = {f"b/{number}": random.randbytes(MIB) for number in range(30)}

    async def scenario() -> None:
        async with opened(minio_store(minio_server)) as store:
            await store.put(blobs)
            with minio_server.killed():
                for work in (
                    store.check(),
                    store.put(blobs),
                    store.get(blobs),
                    store.delete(blobs),
                    store.list(""),
                ):
                    with within(BOUND), pytest.raises(StoreError, match=r"cannot be reached.*MINIO_ENDPOINT"):
                        await work
            assert await store.get(blobs) == blobs
            await store.put({"b/new": b"new"})
            assert len(await store.list("b/")) == 31

    run(scenario())


def test_minio_that_hangs_is_told_in_time_and_used_again(minio_server: MinioServer) -> None:
    blobs = {f"b/{number}": b"1" for number in range(100)}

    async def scenario() -> None:
        async with opened(minio_store(minio_server)) as store:
            await store.put(blobs)
            with minio_server.paused():
                with within(BOUND), pytest.raises(StoreError, match="did not answer in"):
                    await store.get(blobs)
                with within(BOUND), pytest.raises(StoreError, match="did not answer in"):
                    await store.check()
            await asyncio.sleep(3)  # the threads that still wait give up
            assert await store.get(blobs) == blobs

    run(scenario())


def test_a_bucket_that_is_missing_is_made_again(minio_server: MinioServer) -> None:
    async def scenario() -> None:
        async with opened(minio_store(minio_server)) as store:
            for _again in range(2):
                await asyncio.gather(*(store.put({f"b/{number}": b"1"}) for number in range(20)))
                assert len(await store.list("")) == 20
                assert await store.get(["b/none"]) == {}
                shutil.rmtree(minio_server.folder / "drive" / store.bucket)
                assert await store.list("") == []

    run(scenario())


@pytest.mark.parametrize("wrong", [{"secret_key": "wrong-secret"}, {"access_key": "wrong-secret"}])
def test_wrong_keys_for_minio_are_told_and_the_secret_is_not_quoted(
    minio_server: MinioServer, wrong: dict[str, str]
) -> None:
    async def scenario() -> None:
        async with opened(minio_store(minio_server, **wrong)) as store:
            for work in (store.put({"b/1": b"1"}), store.get(["b/1"]), store.check(), store.delete(["b/1"])):
                with pytest.raises(StoreError, match="MINIO_SECRET_KEY") as caught:
                    await work
                assert "wrong-secret" not in str(caught.value).replace(wrong.get("access_key", "\n"), "")

    run(scenario())


class OtherServer(http.server.BaseHTTPRequestHandler):
    """Answers like a web site, not like MinIO; but a bucket it has."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html><p>hello")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def other_server(certificate: Path | None = None) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OtherServer)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


def test_what_is_no_minio_is_told(minio_server: MinioServer) -> None:
    async def scenario(endpoint: str) -> None:
        async with opened(minio_store(minio_server, endpoint=endpoint)) as store:
            with pytest.raises(StoreError, match="is no MinIO"):
                await store.list("b/")
        async with opened(minio_store(minio_server, endpoint=endpoint, secure=True)) as store:
            with pytest.raises(StoreError, match="MINIO_SECURE"):
                await store.list("b/")

    with other_server() as endpoint:
        run(scenario(endpoint))


def test_minio_is_not_trusted_for_the_certificate_of_this_server(
    minio_server: MinioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "certificate.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(certificate), "-out", str(tmp_path / "public.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, *files],
        check=True,
        capture_output=True,
    )
    with certificate.open("a") as joined:
        joined.write((tmp_path / "public.pem").read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))

    async def scenario(endpoint: str) -> None:
        async with opened(minio_store(minio_server, endpoint=endpoint, secure=True)) as store:
            with pytest.raises(StoreError, match="certificate verify failed"):
                await store.check()
        trusting = minio_store(minio_server, endpoint=endpoint, secure=True, ca_file=str(tmp_path / "public.pem"))
        async with opened(trusting) as store:
            await store.check()

    with other_server(certificate) as endpoint:
        run(scenario(endpoint))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MINIO_ENDPOINT", "http://localhost:9000"),
        ("MINIO_ENDPOINT", "host/path"),
        ("MINIO_BUCKET", "Not_A_Bucket"),
    ],
)
def test_a_wrong_place_in_minio_is_a_mistake_in_the_configuration(variable: str, value: str) -> None:
    _config, (problem,) = settings.environment_config([MinioStore], {variable: value})
    assert problem.startswith(f"{variable} must be ")


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """Mount a disk of ``size`` MB, which takes root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_minio_without_room_is_told_and_used_again_when_it_has_some() -> None:
    async def scenario() -> None:
        async with opened(minio_store(server)) as store:
            with pytest.raises(StoreFull, match="make room"):
                await store.put({f"b/{number}": random.randbytes(2 * MIB) for number in range(40)})
            await asyncio.to_thread(subprocess.run, remount, check=True)
            await store.put({"b/1": bytes(2 * MIB)})

    server = MinioServer()
    remount = ["mount", "-o", "remount,size=256m", str(server.folder / "drive")]
    (server.folder / "drive").mkdir()
    try:
        with mounted(server.folder / "drive", 64):
            try:
                server.start()
                run(scenario())
            finally:
                server.kill()
    finally:
        server.remove()


# --- a lease comes with what is stored


LITTLE = 0.02
EXPIRES = 1


async def befall(store: SessionStore, dice: random.Random, key: str, number: int) -> None:
    """Do something to a session, to its end or half of it, as the one who holds it."""
    held = await store.acquire(key, "a", 30)
    assert held is not None
    assert held.head == await store.head(key)
    size = dice.choice([1, FILE_BYTES])
    works = (
        lambda: store.commit(held, change(b"%d" % number, {f"b/{number}": bytes(size)}, key=key)),
        lambda: store.commit(held, change(b"%d" % number, key=key, ttl=LITTLE)),
        lambda: store.commit(held, change(b"%d" % number, key=key, keep=["b/that/is/not/there"])),
        lambda: store.evict(held, []),
        lambda: store.remove(held, key.partition("/")[0], []),
        lambda: store.release(held),
    )
    chosen = dice.choices(range(len(works)), weights=(8, 1, 1, 1, 1, 2))[0]
    work = asyncio.ensure_future(works[chosen]())
    for _ in range(dice.choice([0, 1, 2, 3, 1000])):  # cut off at some moment, or not
        if not work.done():
            await asyncio.sleep(0)
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError, BlobsMissing):
        await work
    if chosen == EXPIRES:
        await asyncio.sleep(2 * LITTLE)


def test_a_lease_comes_with_the_head_that_is_stored_whatever_befell_it(
    session_store: Callable[[], SessionStore],
) -> None:
    """Ten sessions at the same time are stored, archived, deleted, expire; each work may be cut off or fail."""

    async def use(store: SessionStore, seed: int) -> None:
        dice = random.Random(seed)
        for number in range(100):
            await befall(store, dice, f"o/{seed}", number)

    async def scenario() -> None:
        async with opened(session_store()) as store:
            for seed in range(5):
                await use(store, seed)
            await asyncio.gather(*(use(store, seed) for seed in range(5, 15)))

    run(scenario())


def test_a_write_that_ends_while_a_lease_is_taken_is_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writing thread comes to its end just as the loop looks what it knows of the head."""
    look = Heads.get

    def slow_look(heads: Heads, key: str, now: float) -> bytes | None:
        known = look(heads, key, now)
        time.sleep(0.3)
        return known

    async def scenario() -> None:
        async with opened(EmbeddedStore(state_dir=str(tmp_path))) as store:
            held = await lease(store)
            await store.commit(held, change(b"1"))
            writing = asyncio.ensure_future(store.commit(held, change(b"2")))
            await asyncio.sleep(0)  # it is on its way to the thread
            monkeypatch.setattr(Heads, "get", slow_look)
            assert (await lease(store)).head == b"2"
            await writing

    run(scenario())


# --- the disk, and what befalls it


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_only_their_user_may_read_the_files(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(EmbeddedStore(state_dir=str(tmp_path / "state"))) as store:
            await store.put({"b/1": b"1", "b/2": bytes(FILE_BYTES)})
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").rglob("*")}
            assert {"state.db", "state.db-wal", "lock", "blobs"} < modes.keys()
            assert set(modes.values()) == {0o600, 0o700}

    previous = os.umask(0)
    try:
        run(scenario())
    finally:
        os.umask(previous)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("fsync", [False, True])
def test_files_that_nothing_needs_any_more_are_removed(tmp_path: Path, fsync: bool) -> None:
    async def scenario() -> None:
        store = EmbeddedStore(state_dir=str(tmp_path), fsync=fsync)
        async with opened(store):
            held = await lease(store)
            for number in range(10):
                await store.commit(
                    held, change(b"1", {"b/1": bytes(FILE_BYTES), "b/2": bytes(FILE_BYTES + number)})
                )
            with pytest.raises(BlobsMissing):
                await store.commit(held, change(b"2", {"b/3": bytes(FILE_BYTES)}, keep=["b/x"]))
            await store.put({"b/4": bytes(FILE_BYTES)})
            await store.delete(["b/4"])
        assert len(files_below(tmp_path / "blobs")) == 2

    run(scenario())


def test_leftovers_of_dead_processes_are_swept_when_they_are_old(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(EmbeddedStore(state_dir=str(tmp_path))) as store:
            await store.put({"b/1": bytes(FILE_BYTES)})
            (used,) = files_below(tmp_path / "blobs")
            old, new = used.with_name("old"), used.with_name("new")
            for path in (used, old, new):
                path.touch()
            for path in (used, old):
                os.utime(path, (0, 0))
            assert await store.sweep() == 1
            await store.check()
        assert set(files_below(tmp_path / "blobs")) == {used, new}

    run(scenario())


def test_a_file_that_was_taken_away_is_a_missing_blob(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(EmbeddedStore(state_dir=str(tmp_path))) as store:
            held = await lease(store)
            await store.commit(held, change(b"1", {"b/1": bytes(FILE_BYTES), "b/2": b"2"}))
            (file,) = files_below(tmp_path / "blobs")
            os.truncate(file, 10)
            assert (await store.get(["b/1", "b/2"])).keys() == {"b/2"}
            file.unlink()
            assert (await store.get(["b/1", "b/2"])).keys() == {"b/2"}
            with pytest.raises(BlobsMissing):
                await store.commit(held, change(b"2", keep=["b/1", "b/2"]))
            await store.commit(held, change(b"2", {"b/1": bytes(FILE_BYTES)}, keep=["b/2"]))
            assert (await store.get(["b/1", "b/2"])).keys() == {"b/1", "b/2"}

    run(scenario())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, of which 8 MB are taken by the file ``ballast``."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, 24):
        (disk / "ballast").write_bytes(bytes(8 * MIB))
        yield disk


@pytest.mark.parametrize("size", [50_000, MIB])
def test_a_full_disk_is_told_and_nothing_is_half_done(small_disk: Path, size: int) -> None:
    async def commit(store: EmbeddedStore, held: Lease, number: int) -> None:
        blobs = {f"b/{number}/{part}": random.randbytes(size) for part in range(2 * MIB // size)}
        await store.commit(held, change(b"%d" % number, blobs, keep=["b/base"]))

    async def fill(store: EmbeddedStore, held: Lease) -> int:
        """Commit until the disk is full; returns the number of the first commit that failed."""
        for number in range(1, 100):
            try:
                await commit(store, held, number)
            except StoreFull:
                return number
        pytest.fail("the disk is never full")

    async def scenario() -> None:
        async with opened(EmbeddedStore(state_dir=str(small_disk / "state"))) as store:
            held = await lease(store)
            await store.commit(held, change(b"0", {"b/base": bytes(FILE_BYTES)}))
            number = await fill(store, held)
            with pytest.raises(StoreFull, match="is full"):
                await commit(store, held, number)
            assert await store.head("o/s") == b"%d" % (number - 1)
            listed = await store.list("b/")
            assert not [item for item in listed if item.name.startswith(f"b/{number}/")]
            assert len(await store.get(item.name for item in listed)) == len(listed) > 10
            (small_disk / "ballast").unlink()
            await commit(store, held, number)
            assert await store.head("o/s") == b"%d" % number
        with contextlib.closing(sqlite3.connect(small_disk / "state" / "state.db")) as database:
            used = database.execute("SELECT count(file) FROM blobs").fetchone()
        assert (len(files_below(small_disk / "state" / "blobs")),) == used

    run(scenario())


def test_a_damaged_database_is_told_and_left_where_it_is(tmp_path: Path) -> None:
    store = EmbeddedStore(state_dir=str(tmp_path))
    database = tmp_path / "state.db"

    async def fill() -> None:
        async with opened(store):
            for number in range(20):
                await store.put({f"b/{number}": random.randbytes(50_000)})

    run(fill())
    intact = database.read_bytes()
    torn = intact[:8192] + b"\xff" * 300_000 + intact[308_192:]
    for damaged in (b"no database at all" * 100, torn, intact[: len(intact) // 2]):
        database.write_bytes(damaged)
        with pytest.raises(StoreError, match=f"{re.escape(str(database))} is damaged") as caught:
            run(store.open())
        assert "move it away" in str(caught.value)
        assert database.read_bytes() == damaged
    database.write_bytes(intact)
    run(fill())


def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as later:
        later.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="later version"):
        run(EmbeddedStore(state_dir=str(tmp_path)).open())


def test_a_state_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/state cannot be used: Not a directory"):
        run(EmbeddedStore(state_dir=str(tmp_path / "file" / "state")).open())


HOLDING = """
import asyncio, sys
from kernelgate.stores.embedded import EmbeddedStore

async def hold():
    store = EmbeddedStore(state_dir=sys.argv[1])
    await store.open()
    await store.put({"b/1": b"1", "b/2": bytes(100_000)})
    print("open", flush=True)
    await asyncio.sleep(60)

asyncio.run(hold())
"""


def test_a_second_process_is_told_who_uses_the_folder_and_gets_it_when_the_first_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = EmbeddedStore(state_dir=str(tmp_path))
        with pytest.raises(StoreError, match=f"in use by process {first.pid} on .*STATE_DIR"):
            await store.open()
        first.kill()
        first.wait()
        async with opened(store):
            assert (await store.get(["b/1", "b/2"])).keys() == {"b/1", "b/2"}

    first = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "open\n"
        run(scenario())


LIVES = '''
"""Lives of a server that end by kill -9: each checks what those before acknowledged, then commits in a loop."""
import asyncio, os, random, signal, sys, time
from kernelgate.stores.embedded import EmbeddedStore
from kernelgate.stores.store import Commit

folder, lives = sys.argv[1], int(sys.argv[2])
SESSIONS = 4

def blobs(session, number):
    return {f"b/{session}/{number}/{size}": b"%d:%d " % (session, number) * (size // 8) for size in (800, 200_000)}

async def check(store, acknowledged):
    for session, least in acknowledged.items():
        head = await store.head(f"o/{session}")
        number = int(head or 0)
        assert number >= least, (session, number, least)
        expected = blobs(session, number) if number else {}
        assert await store.get(expected) == expected, (session, number)
        listed = {item.name for item in await store.list(f"b/{session}/")}
        assert listed == set(expected) | ({f"b/{session}/base"} if number else set()), listed

async def write(store, session, out):
    key = f"o/{session}"
    lease = await store.acquire(key, "a", 30)
    number = int(lease.head or 0)
    base = {f"b/{session}/base": b"base"}
    while True:
        old, number = blobs(session, number), number + 1
        new, keep = blobs(session, number), base if number > 1 else {}
        new = new if keep else {**new, **base}
        now = time.time()
        await store.commit(lease, Commit(key, "o", b"%d" % number, b"i", new, keep, old, 60, 60, now))
        os.write(out, b"%d %d\\n" % (session, number))

async def live(acknowledged, out):
    store = EmbeddedStore(state_dir=folder)
    await store.open()
    await check(store, acknowledged)
    os.write(out, b"0 0\\n")
    if out != 1:
        await asyncio.gather(*(write(store, session, out) for session in range(SESSIONS)))

acknowledged = dict.fromkeys(range(SESSIONS), 0)
for life in range(lives):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            asyncio.run(live(acknowledged, writing))
        finally:
            os._exit(1)
    os.close(writing)
    said = os.read(reading, 4)
    time.sleep(random.random() * 0.1)
    os.kill(child, signal.SIGKILL)
    _pid, status = os.waitpid(child, 0)
    assert status == signal.SIGKILL, status
    with open(reading, "rb") as rest:
        for line in (said + rest.read()).splitlines():
            session, number = map(int, line.split())
            acknowledged[session] = max(acknowledged[session], number)
asyncio.run(live(acknowledged, 1))
print(sum(acknowledged.values()))
'''


def test_what_was_acknowledged_survives_kill_9_however_often(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", LIVES, str(tmp_path), "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WHOLE_TEST)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 100
    assert len(files_below(tmp_path / "blobs")) < 4 + 40 * 4 * 2


# --- which stores there are


CLASSES: list[type[Configurable]] = [Stores, EmbeddedStore, RedisStore, MinioStore]


def chosen(environ: dict[str, str] | None = None, config: Config | None = None) -> tuple[str, str]:
    environment, problems = settings.environment_config(CLASSES, environ or {})
    assert problems == []
    stores = Stores(config=settings.override(CLASSES, config or Config(), environment))
    return type(stores.hot).__name__, type(stores.cold).__name__


@pytest.mark.parametrize(
    ("environ", "hot", "cold"),
    [
        ({}, "EmbeddedStore", "EmbeddedStore"),
        ({"REDIS_HOST": ""}, "EmbeddedStore", "EmbeddedStore"),
        ({"REDIS_PORT": "6380"}, "EmbeddedStore", "EmbeddedStore"),
        ({"REDIS_HOST": "localhost"}, "RedisStore", "NoneType"),
        ({"REDIS_URL": "redis://localhost"}, "RedisStore", "NoneType"),
        ({"REDIS_HOST": "redis", "MINIO_ENDPOINT": "minio:9000"}, "RedisStore", "MinioStore"),
        ({"MINIO_ENDPOINT": "minio:9000"}, "EmbeddedStore", "MinioStore"),
        ({"REDIS_HOST": "redis", "STATE_STORE": "embedded"}, "EmbeddedStore", "EmbeddedStore"),
        ({"STATE_STORE": "redis", "STATE_ARCHIVE_STORE": "embedded"}, "RedisStore", "EmbeddedStore"),
        ({"STATE_ARCHIVE_STORE": "minio"}, "EmbeddedStore", "MinioStore"),
        ({"MINIO_ENDPOINT": "minio:9000", "STATE_ARCHIVE_STORE": "none"}, "EmbeddedStore", "NoneType"),
    ],
)
def test_the_stores_are_those_that_the_settings_name(environ: dict[str, str], hot: str, cold: str) -> None:
    assert chosen({**environ, "STATE_DIR": "/nowhere"}) == (hot, cold)


def test_a_redis_that_a_config_file_names_counts_too() -> None:
    config = Config()
    config.RedisStore.host = "redis"
    config.Server.MinioStore.endpoint = "minio:9000"
    assert chosen(config=config) == ("RedisStore", "MinioStore")


def template() -> str:
    return settings.env_template(CLASSES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (template(), ("EmbeddedStore", "EmbeddedStore")),
        (re.sub("(?m)^# ([A-Z_]+=)", r"\1", template()), ("RedisStore", "MinioStore")),
    ],
    ids=["as it is", "with every comment sign taken away"],
)
def test_a_copy_of_the_template_does_what_it_says(tmp_path: Path, text: str, expected: tuple[str, str]) -> None:
    (tmp_path / ".env").write_text(text)
    entries = settings.read_env_file(tmp_path / ".env").entries
    assert chosen({name: entry.value for name, entry in entries.items()}) == expected


def test_every_setting_has_the_default_of_the_guide() -> None:
    defaults = {knob.env: knob.default for knob in settings.knobs([RedisStore, MinioStore])}
    assert defaults == {
        "REDIS_HOST": "localhost",
        "REDIS_PORT": 6379,
        "REDIS_PASSWORD": "",
        "REDIS_DB": 0,
        "REDIS_URL": "",
        "REDIS_MAX_CONNECTIONS": 20,
        "REDIS_SOCKET_TIMEOUT": 5,
        "REDIS_SOCKET_CONNECT_TIMEOUT": 5,
        "MINIO_ENDPOINT": "localhost:9000",
        "MINIO_ACCESS_KEY": "minioadmin",
        "MINIO_SECRET_KEY": "minioadmin",
        "MINIO_SECURE": False,
        "MINIO_BUCKET": "code-interpreter-files",
        "MINIO_REGION": "us-east-1",
    }


def test_minios_own_secret_key_is_unsafe_and_another_is_not() -> None:
    values = {knob: knob.default for knob in settings.knobs([MinioStore])}
    (finding,) = settings.security_findings(values)
    assert finding.startswith("MINIO_SECRET_KEY: ")
    changed = {knob: "another" if knob.env == "MINIO_SECRET_KEY" else value for knob, value in values.items()}
    assert settings.security_findings(changed) == []


def test_both_embedded_stores_work_side_by_side(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = Config()
        config.EmbeddedStore.state_dir = str(tmp_path)
        stores = Stores(config=config)
        await stores.open()
        assert stores.cold is not None
        await stores.hot.put({"b/1": b"hot"})
        await stores.cold.put({"b/1": b"cold"})
        assert (await stores.hot.get(["b/1"]), await stores.cold.get(["b/1"])) == (
            {"b/1": b"hot"},
            {"b/1": b"cold"},
        )
        await stores.close()

    run(scenario())
    assert (tmp_path / "archive" / "state.db").exists()


def test_stores_of_which_one_does_not_open_are_both_closed(tmp_path: Path) -> None:
    config = Config()
    config.EmbeddedStore.state_dir = str(tmp_path)
    (tmp_path / "archive").touch()
    with pytest.raises(StoreError, match="archive"):
        run(Stores(config=config).open())
    (tmp_path / "archive").unlink()
    stores = Stores(config=config)
    run(stores.open())
    run(stores.close())


def test_the_state_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert os.getuid() != 0 or default_state_dir() == Path("/var/lib/kernelgate")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / "kernelgate"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / ".local" / "share" / "kernelgate"


def test_services_that_are_removed_leave_nothing_behind() -> None:
    server = RedisServer()
    server.start()
    server.remove()
    assert not server.folder.exists()
    assert not server.answers()
