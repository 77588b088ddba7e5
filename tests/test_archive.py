"""Sessions that nobody uses go to the archive, and come back whole and once when they are asked for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from minio import Minio
from minio.deleteobjects import DeleteObject

from kernelgate.sessions.archive import Archive
from kernelgate.stores.embedded import EmbeddedStore
from kernelgate.stores.minio import MinioStore
from kernelgate.stores.store import BlobStore
from tests.server import Client, Json, Server, in_background, new_id, wait_for
from tests.services import MinioServer, RedisServer
from tests.test_outage import BOUND, DIE, QUICK_MINIO, acknowledged, minio_settings, redis_settings, refused

StartServer = Callable[..., Server]

SOON = {
    "STATE_ARCHIVE_AFTER_SECONDS": "2",
    "STATE_ARCHIVE_CHECK_INTERVAL_SECONDS": "1",
    "KERNEL_IDLE_SECONDS": "1",
    "CONTAINER_POOL_PY_MIN": "1",
}
IN_TIME = 30.0
"""Seconds in which a session that is due is archived."""

FILL = "x = 41; _ = open('/mnt/data/kept.txt', 'w').write('one')"
LOOK = "x += 1; print(x, open('/mnt/data/kept.txt').read())"


@dataclass(frozen=True)
class Site:
    """A Redis and a bucket, and settings for servers that use both."""

    redis: RedisServer
    minio: MinioServer
    settings: dict[str, str] = field(repr=False)

    @property
    def bucket(self) -> str:
        return self.settings["MINIO_BUCKET"]

    def connected(self) -> Minio:
        return Minio(
            self.minio.address,
            access_key=self.minio.access_key,
            secret_key=self.minio.secret_key,
            secure=False,
            region="us-east-1",
        )

    def objects(self, prefix: str = "") -> list[str]:
        """Return the names of what is in the bucket."""
        client = self.connected()
        if not client.bucket_exists(self.bucket):
            return []
        return [str(each.object_name) for each in client.list_objects(self.bucket, prefix=prefix, recursive=True)]

    def archived(self) -> int:
        """How many sessions are complete in the archive."""
        return len(self.objects("heads/"))

    def hot(self, kind: str = "*") -> int:
        """How many keys Redis has of a kind."""
        pattern = f"kernelgate:{kind}:*"
        return int(self.redis.ask("EVAL", f"return #redis.call('KEYS', '{pattern}')", "0").removeprefix(":"))

    def wait_archived(self, count: int) -> None:
        """Wait until exactly ``count`` sessions are in the archive and none is in Redis."""
        wait_for(lambda: (self.archived(), self.hot("head")) == (count, 0), IN_TIME)

    def remove(self) -> None:
        client = self.connected()
        if client.bucket_exists(self.bucket):
            doomed = [DeleteObject(name) for name in self.objects()]
            assert list(client.remove_objects(self.bucket, doomed)) == []
            client.remove_bucket(self.bucket)


@pytest.fixture
def site(redis_server: RedisServer, minio_server: MinioServer) -> Iterator[Site]:
    assert redis_server.ask("FLUSHALL") == "+OK"
    site = Site(
        redis_server, minio_server, {**redis_settings(redis_server), **minio_settings(minio_server), **SOON}
    )
    yield site
    site.remove()


@pytest.fixture
def start(site: Site, start_server: StartServer) -> Callable[..., Server]:
    """Starts servers of the site."""

    def start(runtime_dir: str = "", **more: str) -> Server:
        return start_server({**site.settings, **more}, QUICK_MINIO, runtime_dir).wait_ready()

    return start


def listed(client: Client) -> dict[str, Json]:
    return {each["session_id"]: each for each in client.request("GET", "/sessions").json()["sessions"]}


def history(client: Client, session_id: str) -> list[Json]:
    answer = client.request("GET", f"/sessions/{session_id}/history")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["history"])


# --- there and back


def test_a_session_goes_to_minio_and_comes_back_whole(start: Callable[..., Server], site: Site) -> None:
    """Nothing of it is left in Redis, and it is listed; used again it has variables, files, history, undo."""
    client, session_id = start().client(), new_id()
    acknowledged(client, FILL, session_id)
    acknowledged(client, "import numpy as np; a = np.arange(200_000); def_ = lambda n: n + x", session_id)
    site.wait_archived(1)
    assert site.hot("blob") == 0
    assert len(site.objects("archive/")) >= 2  # the small blobs together, and the large one
    shown = client.session(session_id)
    assert (shown["executions"], shown["state"]) == (2, "dormant")
    assert listed(client)[session_id]["executions"] == 2
    assert next(entry["code"] for entry in history(client, session_id)) == FILL
    assert site.archived() == 1

    code = "print(x, a.sum(), def_(1), open('/mnt/data/kept.txt').read())"
    reply = acknowledged(client, code, session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("41 19999900000 42 one\n", "restored")
    assert (site.objects(), site.hot("head")) == ([], 1)
    assert [entry["number"] for entry in history(client, session_id)] == [1, 2, 3]

    site.wait_archived(1)
    undone = client.request("POST", f"/sessions/{session_id}/undo", json={"steps": 2})
    assert (undone.status_code, undone.json()["version"]) == (200, 1)
    assert acknowledged(client, "print('a' in globals(), x)", session_id)["stdout"] == "False 41\n"
    assert client.delete(session_id).status_code == 204


def test_a_deleted_session_is_gone_from_minio(start: Callable[..., Server], site: Site) -> None:
    """DELETE of a session that is in the archive only."""
    client, session_id = start().client(), new_id()
    acknowledged(client, FILL, session_id)
    site.wait_archived(1)
    assert client.delete(session_id).status_code == 204
    assert (site.objects(), site.hot("blob"), site.hot("head")) == ([], 0, 0)
    assert client.request("GET", f"/sessions/{session_id}").status_code == 404
    assert session_id not in listed(client)
    assert client.run("print('x' in globals())", session_id=session_id)["stdout"] == "False\n"


def test_the_archive_outlives_the_time_for_which_a_state_is_at_hand(
    start: Callable[..., Server], site: Site
) -> None:
    """STATE_TTL_SECONDS is long over when the session is asked for: the archive has its own, longer time."""
    client, session_id = start(STATE_TTL_SECONDS="5").client(), new_id()
    acknowledged(client, FILL, session_id)
    site.wait_archived(1)
    time.sleep(6)
    reply = acknowledged(client, LOOK, session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("42 one\n", "restored")


def test_the_archive_survives_an_empty_redis_and_a_new_server(start: Callable[..., Server], site: Site) -> None:
    """Redis lost all it had, the server is another one: what was archived is there."""
    first, session_id = start(), new_id()
    acknowledged(first.client(), FILL, session_id)
    site.wait_archived(1)
    assert site.redis.ask("FLUSHALL") == "+OK"
    for client in (start().client(), first.client()):
        reply = acknowledged(client, LOOK, session_id)
        assert reply["runtime_status"] == "restored"
    assert reply["stdout"] == "43 one\n"


def test_the_embedded_archive_works_the_same(start_server: StartServer, tmp_path: Path) -> None:
    """Without Redis and MinIO: archived below STATE_DIR, listed, back on demand, gone when it is deleted."""
    settings = {**SOON, "STATE_DIR": str(tmp_path / "state")}
    client, session_id = start_server(settings).wait_ready().client(), new_id()
    acknowledged(client, f"{FILL}; big = 'a' * 300_000", session_id)
    heads = 'SELECT count(*) FROM blobs WHERE name LIKE "heads/%"'
    wait_for(lambda: rows(tmp_path / "state" / "archive", heads) == 1, IN_TIME)
    wait_for(
        lambda: rows(tmp_path / "state", "SELECT (SELECT count(*) FROM heads) + (SELECT count(*) FROM blobs)") == 0
    )
    assert listed(client)[session_id]["executions"] == 1
    reply = acknowledged(client, LOOK, session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("42 one\n", "restored")
    assert rows(tmp_path / "state" / "archive", "SELECT count(*) FROM blobs") == 0
    wait_for(lambda: rows(tmp_path / "state" / "archive", heads) == 1, IN_TIME)
    assert client.delete(session_id).status_code == 204
    assert rows(tmp_path / "state" / "archive", "SELECT count(*) FROM blobs") == 0


def rows(folder: Path, query: str) -> int:
    """Return the one number that a query finds in the database of an embedded store."""
    with contextlib.closing(sqlite3.connect(f"file:{folder / 'state.db'}?mode=ro", uri=True)) as database:
        return int(database.execute(query).fetchone()[0])


def test_a_fork_is_intact_whichever_of_the_two_is_archived(start: Callable[..., Server], site: Site) -> None:
    """The source is archived, and even deleted, while its fork is used; then the fork is archived too."""
    client, source = start().client(), new_id()
    acknowledged(client, f"{FILL}; big = list(range(100_000))", source)
    forked = client.request("POST", f"/sessions/{source}/fork", json={})
    assert forked.status_code == 201, forked.text
    fork = forked.json()["sessions"][0]["session_id"]
    deadline = time.monotonic() + IN_TIME
    while (site.archived(), site.hot("head")) != (1, 1) and time.monotonic() < deadline:
        acknowledged(client, "x", fork)
        time.sleep(0.5)
    assert (site.archived(), site.hot("head")) == (1, 1)
    client.run(DIE, session_id=fork)
    assert acknowledged(client, "x += 1; print(x, len(big))", fork)["stdout"] == "42 100000\n"
    assert acknowledged(client, "print(x, len(big))", source)["stdout"] == "41 100000\n"
    site.wait_archived(2)
    assert client.delete(source).status_code == 204
    reply = acknowledged(client, "print(x, len(big), open('/mnt/data/kept.txt').read())", fork)
    assert (reply["stdout"], reply["runtime_status"]) == ("42 100000 one\n", "restored")


# --- when things go wrong


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_without_minio_sessions_stay_and_are_archived_later(
    start: Callable[..., Server], site: Site, how: str
) -> None:
    """MinIO is away while sessions are due: they stay in Redis and work; they are archived once it is back."""
    server = start()
    client, session_id = server.client(), new_id()
    with site.minio.killed() if how == "killed" else site.minio.paused():
        first = client.run(FILL)
        wait_for(lambda: "not archived" in server.stderr, IN_TIME)
        reply = acknowledged(client, LOOK, first["session_id"])
        assert reply["stdout"] == "42 one\n"
        refused(lambda: client.post(client.body(FILL, session_id=session_id)), bound=BOUND)
        assert site.hot("head") == 1
    acknowledged(client, FILL, session_id)
    site.wait_archived(2)
    assert acknowledged(client, LOOK, first["session_id"])["stdout"] == "43 one\n"
    assert "Traceback" not in server.stderr


def test_without_redis_the_archiver_waits(start: Callable[..., Server], site: Site) -> None:
    """Redis is away for some rounds: the archiver goes on with it."""
    server = start()
    client, session_id = server.client(), new_id()
    acknowledged(client, FILL, session_id)
    with site.redis.killed():
        wait_for(lambda: "not archived" in server.stderr, IN_TIME)
    site.wait_archived(1)
    assert acknowledged(client, LOOK, session_id)["stdout"] == "42 one\n"
    assert "Traceback" not in server.stderr


def test_a_server_killed_while_it_archives_loses_nothing_and_blocks_no_call(
    start: Callable[..., Server], site: Site
) -> None:
    """SIGKILL while a session is being archived: the successor uses the session at once, and deletes all of it."""
    server, session_id = start(), new_id()
    acknowledged(server.client(), FILL, session_id)
    client = server.client()
    acknowledged(client, "import numpy as np; a = np.random.default_rng(3).random(3_000_000)", session_id)
    wait_for(lambda: site.objects("archive/"), IN_TIME, every=0.0)
    server.process.kill()
    server.wait()
    client = start(server.runtime_dir).client()
    started = time.monotonic()
    reply = acknowledged(client, "print(x, a.shape)", session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("41 (3000000,)\n", "restored")
    assert time.monotonic() - started < BOUND / 2
    assert acknowledged(client, LOOK, session_id)["stdout"] == "42 one\n"
    assert client.delete(session_id).status_code == 204
    assert (site.objects(), site.hot("blob"), site.hot("head")) == ([], 0, 0)


# --- many


def test_two_servers_archive_each_session_once(start: Callable[..., Server], site: Site) -> None:
    """Both look every second: every session is archived complete, and either server has it back."""
    servers = [start(CONTAINER_POOL_PY_MIN="2"), start(CONTAINER_POOL_PY_MIN="2")]
    clients = [server.client() for server in servers]
    ids = [new_id() for _ in range(6)]
    for number, session_id in enumerate(ids):
        acknowledged(clients[number % 2], f"x = {number}", session_id)
    site.wait_archived(len(ids))
    for number, session_id in enumerate(ids[:4]):
        reply = acknowledged(clients[(number + 1) % 2], "print(x)", session_id)
        assert (reply["stdout"], reply["runtime_status"]) == (f"{number}\n", "restored")
    assert site.archived() + site.hot("head") == len(ids)
    for server in servers:
        assert "Traceback" not in server.stderr


def test_200_sessions_are_archived_in_bounded_time(start: Callable[..., Server], site: Site) -> None:
    """Forks of one session, all due at once; three of them come back."""
    client, source = start().client(), new_id()
    acknowledged(client, FILL, source)
    ids = [source]
    while len(ids) <= 200:
        answer = client.request("POST", f"/sessions/{source}/fork", json={"count": min(50, 201 - len(ids))})
        assert answer.status_code == 201, answer.text
        ids += [each["session_id"] for each in answer.json()["sessions"]]
    wait_for(lambda: site.hot("head") == 0, 60)
    assert site.archived() == len(ids)
    assert set(ids) <= set(listed(client))
    for session_id in (ids[0], ids[100], ids[-1]):
        assert acknowledged(client, LOOK, session_id)["stdout"] == "42 one\n"


def test_a_session_used_while_it_is_archived_is_neither_lost_nor_doubled(
    start: Callable[..., Server], site: Site
) -> None:
    """Calls with gaps around the time after which a session is archived, on two servers: every one counts once."""
    settings = {"STATE_ARCHIVE_AFTER_SECONDS": "1", "KERNEL_IDLE_SECONDS": "3", "CONTAINER_POOL_PY_MIN": "2"}
    clients = [start(**settings).client() for _ in range(2)]
    for client in clients:
        wait_for(partial(warm, client))
    ids = [new_id() for _ in range(4)]
    for number, session_id in enumerate(ids):
        acknowledged(clients[number % 2], "seen = []", session_id)
    users = [in_background(hammer, clients, session_id, random.Random(session_id)) for session_id in ids]
    seen = [user.result(120) for user in users]
    assert min(map(len, seen)) >= 3
    for session_id, numbers in zip(ids, seen, strict=True):
        assert numbers == list(range(len(numbers)))
        assert acknowledged(clients[0], "print(seen)", session_id)["stdout"] == f"{numbers}\n"
    wait_for(lambda: (site.archived(), site.hot("head")) == (len(ids), 0), IN_TIME)
    for session_id in ids:
        assert client_count(clients, session_id) == 1


def warm(client: Client) -> bool:
    return bool(client.pool()["warm"])


def client_count(clients: list[Client], session_id: str) -> int:
    """How often a session is listed, which must be the same on all servers."""
    counts = {
        [each["session_id"] for each in client.request("GET", "/sessions").json()["sessions"]].count(session_id)
        for client in clients
    }
    [count] = counts
    return count


def hammer(clients: list[Client], session_id: str, chance: random.Random) -> list[int]:
    """Use a session for 12 s with pauses of 0.7 to 2.5 s; returns the numbers that it counted."""
    end, count = time.monotonic() + 12, 0
    while time.monotonic() < end:
        client = clients[chance.random() < 0.2]
        reply = acknowledged(client, f"seen.append({count}); print(seen)", session_id)
        assert reply["stdout"] == f"{list(range(count + 1))}\n"
        count += 1
        time.sleep(chance.uniform(0.7, 2.5))
    return list(range(count))


# --- expiry


@pytest.mark.parametrize("kind", ["embedded", "minio"])
def test_archived_sessions_expire_with_all_their_blobs(
    kind: str, minio_server: MinioServer, tmp_path: Path
) -> None:
    """`Archive.expire` removes those that were stored longer ago, record and blobs, and no other."""
    keys = {"access_key": minio_server.access_key, "secret_key": minio_server.secret_key}
    stores: dict[str, Callable[[], BlobStore]] = {
        "embedded": lambda: EmbeddedStore(state_dir=str(tmp_path / "state"), subfolder="archive"),
        "minio": lambda: MinioStore(endpoint=minio_server.address, bucket=f"bucket-{new_id()}", **keys),
    }
    asyncio.run(expire_old(stores[kind]()))


async def expire_old(store: BlobStore) -> None:
    archive, blobs = Archive(store), {f"b/space/{number}": b"blob %d" % number for number in range(40)}

    async def read(names: Collection[str]) -> dict[str, bytes]:
        return {name: blobs[name] for name in names}

    await store.open()
    try:
        await archive.write("old", b"head of the old", blobs, read)
        await asyncio.sleep(2.1)  # S3 tells times in whole seconds
        await archive.write("new", b"head of the new", blobs, read)
        assert await archive.expire(60) == 0
        assert await archive.expire(1.5) == 1
        assert (await archive.head("old"), await archive.head("new")) == (None, b"head of the new")
        found = {name: blob async for part in archive.read("new", blobs) for name, blob in part.items()}
        assert found == blobs
        assert [item.name for item in await store.list("archive/old/")] == []
        await archive.remove("new")
        assert await store.list("") == []
    finally:
        await store.close()
