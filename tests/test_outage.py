"""Redis, MinIO or the disk fail: what needs them says so soon, the rest goes on, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from kernelgate.stores.redis import RedisStore
from tests.server import Client, Json, Server, Servers, in_background, new_id, wait_for
from tests.services import PASSWORD, MinioServer, RedisServer, Service

StartServer = Callable[..., Server]

BOUND = 15.0
"""Seconds in which a call is answered whose store does not (the stores' timeouts are a second here)."""

DEFAULT_BOUND = 30.0
"""The same with the timeouts as they are when nothing is set: 5 s each for Redis."""

SOON = 20.0
WRONG_PASSWORD = "a-password-that-is-wrong"
OUTAGES = ["killed", "stopped", "paused"]
QUICK_MINIO = ["--MinioStore.timeout=1", "--MinioStore.connect_timeout=1"]
DIE = "import os; os._exit(1)"
"""Code that ends its kernel, so that the next call is answered from what is stored."""


def redis_settings(redis: RedisServer, **more: str) -> dict[str, str]:
    """Return settings for a server that keeps its sessions in ``redis``, and soon sees when that is gone."""
    quick = {"REDIS_SOCKET_TIMEOUT": "1", "REDIS_SOCKET_CONNECT_TIMEOUT": "1"}
    return {"REDIS_URL": redis.url, **quick, **more}


def minio_settings(minio: MinioServer, **more: str) -> dict[str, str]:
    """Return settings for a server that archives in a bucket of its own."""
    return {
        "MINIO_ENDPOINT": minio.address,
        "MINIO_ACCESS_KEY": minio.access_key,
        "MINIO_SECRET_KEY": minio.secret_key,
        "MINIO_BUCKET": f"bucket-{new_id()}",
        **more,
    }


@dataclass(frozen=True)
class Site:
    """One server that lives through all the outages."""

    server: Server
    redis: RedisServer
    minio: MinioServer

    @property
    def client(self) -> Client:
        return self.server.client()


@pytest.fixture(scope="module")
def site(servers: Servers, redis_server: RedisServer, minio_server: MinioServer) -> Iterator[Site]:
    """In the end the server has logged no error of its own, and no password."""
    assert redis_server.ask("FLUSHALL") == "+OK"
    environment = {
        **redis_settings(redis_server),
        **minio_settings(minio_server),
        "CONTAINER_POOL_PY_MIN": "2",
        "MAX_EXECUTION_TIME": "20",
    }
    with servers.serving(environment, QUICK_MINIO) as server:
        yield Site(server, redis_server, minio_server)
        assert PASSWORD not in server.stderr + server.stdout


@pytest.fixture
def session_id(site: Site) -> Iterator[str]:
    """The id of a session of the server above, with ``x = 1`` and a file, both acknowledged."""
    session_id = new_id()
    acknowledged(site.client, "x = 1; _ = open('/mnt/data/kept.txt', 'w').write('one')", session_id)
    yield session_id
    site.client.delete(session_id)


def outage(service: Service, how: str) -> AbstractContextManager[None]:
    """Have ``service`` fail and come back."""
    if how == "stopped":
        return stopped(service)
    return service.killed() if how == "killed" else service.paused()


@contextlib.contextmanager
def stopped(service: Service) -> Iterator[None]:
    service.stop()
    try:
        yield
    finally:
        service.start()


def acknowledged(client: Client, code: str, session_id: str) -> Json:
    """Run code that must succeed and be saved; returns the reply."""
    reply = client.run(code, session_id=session_id)
    assert reply["status"] == "ok", reply
    assert reply["state"]["captured"], reply
    return reply


def refused(send: Callable[[], requests.Response], code: str = "store_unavailable", bound: float = BOUND) -> Json:
    """Send what must be answered with 503 within ``bound``; returns the error.

    The status is 200 where white space went out ahead of the answer, as it does for code that runs long.
    """
    started = time.monotonic()
    answer = send()
    assert time.monotonic() - started < bound, answer.text
    assert answer.status_code == (200 if answer.text.startswith(" ") else 503), answer.text
    error = dict(answer.json())
    assert error["error"] == code, error
    assert error["message"]
    assert PASSWORD not in answer.text
    return error


def in_session(client: Client, code: str, session_id: str) -> Callable[[], requests.Response]:
    return lambda: client.post(client.body(code, session_id=session_id))


def asked(client: Client, method: str, path: str, body: Json | None = None) -> Callable[[], requests.Response]:
    return lambda: client.request(method, path, json=body)


def goes_on(client: Client, session_id: str) -> Json:
    """Check, in a new kernel, that what was acknowledged is there; returns the reply."""
    client.run(DIE, session_id=session_id)
    reply = acknowledged(client, "print(x, open('/mnt/data/kept.txt').read())", session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("1 one\n", "restored"), reply
    return reply


def running(client: Client, count: int = 1) -> None:
    """Wait until ``count`` executions run, in their kernels."""
    wait_for(lambda: client.health()["executions"]["running"] == count)
    time.sleep(0.5)  # an execution counts from its turn on; then its session is held, and its kernel found


# --- Redis


@pytest.mark.parametrize("how", OUTAGES)
def test_without_redis_what_needs_no_session_goes_on(site: Site, session_id: str, how: str) -> None:
    """Health, the OpenAPI document and code without a session are answered; health tells of the store."""
    client = site.client
    with outage(site.redis, how):
        assert client.request("GET", "/health").status_code == 200
        assert client.request("GET", "/openapi.json").status_code == 200
        reply = client.run("y = 2; print(y)")
        assert (reply["status"], reply["stdout"], reply["state"]["captured"]) == ("ok", "2\n", False)
        assert "store" in reply["state"]["error"]
        health = client.health()
        assert (health["status"], health["store"]["status"]) == ("degraded", "unavailable")
        assert site.redis.address in health["store"]["message"]
        assert PASSWORD not in str(health)
        assert health["archive"]["status"] == "healthy"
    wait_for(lambda: client.health()["status"] == "healthy")
    later = acknowledged(client, "print(y + 1)", reply["session_id"])
    assert (later["stdout"], later["runtime_status"]) == ("3\n", "reused")
    client.delete(reply["session_id"])


@pytest.mark.parametrize("how", OUTAGES)
def test_without_redis_sessions_are_refused_soon_and_go_on_later(site: Site, session_id: str, how: str) -> None:
    """Every call on a session: 503 store_unavailable in bounded time; afterwards all works without a restart."""
    client, path = site.client, f"/sessions/{session_id}"
    calls = [
        in_session(client, "x = 'never'", session_id),
        in_session(client, "x = 'never'", new_id()),
        asked(client, "GET", "/sessions"),
        asked(client, "GET", f"{path}/history"),
        asked(client, "GET", f"{path}/vars"),
        asked(client, "POST", f"{path}/undo", {"steps": 1}),
        asked(client, "POST", f"{path}/fork", {}),
        asked(client, "DELETE", path),
    ]
    with outage(site.redis, how):
        refused(asked(client, "GET", path))
        sent = [in_background(refused, send) for send in calls]
        errors = [each.result(60) for each in sent]
    assert not any("executed" in error for error in errors)
    goes_on(client, session_id)
    assert client.session(session_id)["executions"] == 3


def test_with_the_default_timeouts_a_redis_that_hangs_is_told_of_in_30_seconds(
    start_server: StartServer, redis_server: RedisServer
) -> None:
    """REDIS_SOCKET_TIMEOUT is not set."""
    server = start_server({"REDIS_URL": redis_server.url, "CONTAINER_POOL_PY_MIN": "0"}).wait_ready()
    with redis_server.paused():
        refused(in_session(server.client(), "x = 1", new_id()), bound=DEFAULT_BOUND)


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_code_that_ran_while_redis_failed_is_told_so(site: Site, session_id: str, how: str) -> None:
    """The outage begins while code runs: 503 state_not_saved with executed; what was acknowledged stays."""
    client = site.client
    sending = in_background(in_session(client, "import time; time.sleep(2); z = 3; print('done')", session_id))
    running(client)
    with outage(site.redis, how):
        error = refused(lambda: sending.result(60), "state_not_saved")
        assert error["executed"] is True
    assert acknowledged(client, "print(x)", session_id)["stdout"] == "1\n"
    goes_on(client, session_id)


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_an_outage_that_ends_before_the_code_does_is_not_noticed(site: Site, session_id: str, how: str) -> None:
    """Redis fails and is back while code runs: 200, saved, and restored in another kernel."""
    client = site.client
    sending = in_background(client.run, "import time; time.sleep(3); z = 3", session_id=session_id)
    running(client)
    with outage(site.redis, how):
        time.sleep(0.3)
    reply = sending.result(60)
    assert (reply["status"], reply["state"]["captured"]) == ("ok", True), reply
    client.run(DIE, session_id=session_id)
    assert acknowledged(client, "print(x + z)", session_id)["stdout"] == "4\n"


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_redis_fails_while_a_state_is_saved(site: Site, session_id: str, how: str) -> None:
    """40 MB are on their way: 503 state_not_saved; the state before is there, and saving works again."""
    client, redis = site.client, site.redis
    acknowledged(client, "import numpy as np", session_id)
    before = keys(redis)
    code = "a = np.random.default_rng(7).random(5_000_000)"
    sending = in_background(in_session(client, code, session_id))
    wait_for(lambda: keys(redis) > before + 1, every=0.0)
    with outage(redis, how):
        error = refused(lambda: sending.result(60), "state_not_saved")
        assert error["executed"] is True
    goes_on(client, session_id)
    acknowledged(client, code, session_id)
    client.run(DIE, session_id=session_id)
    reply = acknowledged(client, "print(a.shape, x)", session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("(5000000,) 1\n", "restored")


def keys(redis: RedisServer) -> int:
    return int(redis.ask("DBSIZE").removeprefix(":"))


def test_a_redis_that_comes_back_empty_is_told_of(site: Site, session_id: str) -> None:
    """FLUSHALL under a session: the next call runs in an empty session and says why; the session is usable."""
    client = site.client
    assert site.redis.ask("FLUSHALL") == "+OK"
    reply = client.run("print('x' in globals())", session_id=session_id)
    assert (reply["stdout"], reply["runtime_status"], reply["state"]["captured"]) == ("False\n", "new", True)
    assert reply["state"]["restored"]["error"]
    assert reply["state"]["restored"]["error"] in reply["stderr"]
    acknowledged(client, "x = 2", session_id)
    client.run(DIE, session_id=session_id)
    assert acknowledged(client, "print(x)", session_id)["stdout"] == "2\n"


def test_a_redis_that_comes_back_with_another_database_in_part_is_told_of(site: Site, session_id: str) -> None:
    """The blobs of a session are gone and its record is there: told, and the session is usable."""
    client = site.client
    client.run(DIE, session_id=session_id)
    drop = "for _, key in ipairs(redis.call('KEYS', 'kernelgate:blob:*')) do redis.call('DEL', key) end return 1"
    assert site.redis.ask("EVAL", drop, "0") == ":1"
    reply = client.run("print('x' in globals())", session_id=session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("False\n", "new")
    assert reply["state"]["restored"]["error"] in reply["stderr"]
    assert reply["state"]["restored"]["error"]
    acknowledged(client, "x = 2", session_id)
    client.run(DIE, session_id=session_id)
    assert acknowledged(client, "print(x)", session_id)["stdout"] == "2\n"


def test_blobs_that_vanish_under_a_live_kernel_are_saved_again(site: Site, session_id: str) -> None:
    """Unchanged data was in blobs that are gone: the save is made again, complete."""
    client = site.client
    acknowledged(client, "import numpy as np; a = np.arange(100_000)", session_id)
    drop = "for _, key in ipairs(redis.call('KEYS', 'kernelgate:blob:*')) do redis.call('DEL', key) end return 1"
    assert site.redis.ask("EVAL", drop, "0") == ":1"
    assert acknowledged(client, "b = 1", session_id)["runtime_status"] == "reused"
    client.run(DIE, session_id=session_id)
    reply = acknowledged(client, "print(x, b, a.sum())", session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("1 1 4999950000\n", "restored")


def test_a_full_redis_is_told_of_and_deleting_makes_room(site: Site, session_id: str) -> None:
    """maxmemory is reached: 503 store_full or state_not_saved that says so; sessions can be read and deleted."""
    client = site.client
    other = new_id()
    acknowledged(client, "x = 1", other)
    with full(site.redis):
        answers = [client.post(client.body("z = 1", session_id=each)) for each in (session_id, other, new_id())]
        for answer in answers:
            assert answer.status_code == 503, answer.text
            assert answer.json()["error"] in ("store_full", "state_not_saved")
            assert "full" in answer.json()["message"]
            assert "maxmemory" in answer.json()["message"]
        assert client.session(session_id)["executions"] == 1
        assert client.run("print(1)")["stdout"] == "1\n"
        assert client.delete(other).status_code == 204
    goes_on(client, session_id)
    assert client.request("GET", f"/sessions/{other}").status_code == 404


@contextlib.contextmanager
def full(redis: RedisServer) -> Iterator[None]:
    assert redis.ask("CONFIG", "SET", "maxmemory", "1mb") == "+OK"
    try:
        yield
    finally:
        assert redis.ask("CONFIG", "SET", "maxmemory", "0") == "+OK"


def test_a_state_too_large_for_redis_leaves_the_one_before(site: Site, session_id: str) -> None:
    """The save itself reaches maxmemory: 503 state_not_saved, the state before is there and grows again."""
    client, redis = site.client, site.redis
    acknowledged(client, "import numpy as np", session_id)
    assert redis.ask("CONFIG", "SET", "maxmemory", "16mb") == "+OK"
    try:
        error = refused(
            in_session(client, "a = np.random.default_rng(1).random(4_000_000)", session_id), "state_not_saved"
        )
        assert (error["executed"], "full" in error["message"]) == (True, True)
        acknowledged(client, "del a; y = 2", session_id)
    finally:
        assert redis.ask("CONFIG", "SET", "maxmemory", "0") == "+OK"
    client.run(DIE, session_id=session_id)
    assert acknowledged(client, "print(x, y, 'a' in globals())", session_id)["stdout"] == "1 2 False\n"


def test_a_server_starts_without_its_redis(start_server: StartServer, redis_server: RedisServer) -> None:
    """Redis is down at the start: the server is up, says so, and works once Redis is there."""
    with redis_server.killed():
        server = start_server(redis_settings(redis_server, CONTAINER_POOL_PY_MIN="0")).wait_ready()
        client, session_id = server.client(), new_id()
        refused(in_session(client, "x = 1", session_id))
        assert client.health()["store"]["status"] == "unavailable"
    acknowledged(client, "x = 1", session_id)
    assert client.health()["store"] == {"kind": "redis", "status": "healthy"}
    client.delete(session_id)


def test_a_wrong_redis_password_is_told_of_and_not_repeated(
    start_server: StartServer, redis_server: RedisServer
) -> None:
    """The server starts and its log says what is wrong; once Redis takes the password it works."""
    url = redis_server.url.replace(PASSWORD, WRONG_PASSWORD)
    server = start_server(redis_settings(redis_server, REDIS_URL=url, CONTAINER_POOL_PY_MIN="0")).wait_ready()
    client, session_id = server.client(), new_id()
    error = refused(in_session(client, "x = 1", session_id))
    assert "REDIS_PASSWORD" in error["message"]
    health = client.health()
    assert "REDIS_PASSWORD" in health["store"]["message"]
    wait_for(lambda: "REDIS_PASSWORD" in server.stderr)
    assert redis_server.ask("CONFIG", "SET", "requirepass", WRONG_PASSWORD) == "+OK"
    try:
        acknowledged(client, "x = 1", session_id)
        client.delete(session_id)
    finally:
        with_password(redis_server, WRONG_PASSWORD, PASSWORD)
    for said in (server.stderr, server.stdout, str(error), str(health)):
        assert WRONG_PASSWORD not in said
    assert "Traceback" not in server.stderr


def with_password(redis: RedisServer, old: str, new: str) -> None:
    command = [
        "redis-cli",
        "-p",
        str(redis.port),
        "--no-auth-warning",
        "-a",
        old,
        "CONFIG",
        "SET",
        "requirepass",
        new,
    ]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "OK"


def test_a_wait_for_redis_can_always_be_cancelled(redis_server: RedisServer) -> None:
    """100 tasks that ask Redis all the time are cancelled at odd moments: each ends at the first cancel."""
    assert asyncio.run(uncancelled(redis_store(redis_server), 100)) == 0


def redis_store(redis: RedisServer) -> RedisStore:
    return RedisStore(host="127.0.0.1", port=redis.port, password=PASSWORD, socket_timeout=5)


async def uncancelled(store: RedisStore, count: int) -> int:
    """Start and cancel ``count`` tasks; returns how many went on."""
    chance, went_on = random.Random(3), 0

    async def ask() -> None:
        while True:
            await store.get(["b/none"])
            await store.lock("of a test", "nobody", 1)

    await store.open()
    try:
        for _ in range(count):
            asking = asyncio.create_task(ask())
            await asyncio.sleep(chance.random() * 0.003)
            for _step in range(chance.randrange(6)):
                await asyncio.sleep(0)
            asking.cancel()
            _done, waiting = await asyncio.wait({asking}, timeout=1)
            went_on += len(waiting)
            while waiting:
                asking.cancel()
                _done, waiting = await asyncio.wait({asking}, timeout=0.01)
    finally:
        await store.close()
    return went_on


# --- MinIO


@pytest.mark.parametrize("how", OUTAGES)
def test_without_minio_live_sessions_go_on(site: Site, session_id: str, how: str) -> None:
    """Only the archive is gone: a session in Redis runs and is saved and restored, health tells of the archive."""
    client = site.client
    with outage(site.minio, how):
        goes_on(client, session_id)
        listed = client.request("GET", "/sessions").json()["sessions"]
        assert session_id in [each["session_id"] for each in listed]
        assert client.request("GET", f"/sessions/{session_id}/history").status_code == 200
        new = client.run("y = 2; print(y)")
        assert (new["stdout"], new["state"]["captured"]) == ("2\n", True)
        health = client.health()
        assert (health["status"], health["store"]["status"]) == ("degraded", "healthy")
        assert health["archive"]["status"] == "unavailable"
        assert site.minio.address in health["archive"]["message"]
        refused(in_session(client, "x = 1", new_id()))
    wait_for(lambda: client.health()["status"] == "healthy")
    client.delete(new["session_id"])


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_an_archived_session_waits_for_minio(
    start_server: StartServer, redis_server: RedisServer, minio_server: MinioServer, how: str
) -> None:
    """A session is in the archive only: 503 while MinIO is away, all of it when MinIO is back."""
    environment = {
        **redis_settings(redis_server),
        **minio_settings(minio_server),
        "STATE_ARCHIVE_AFTER_SECONDS": "1",
        "STATE_ARCHIVE_CHECK_INTERVAL_SECONDS": "1",
    }
    assert redis_server.ask("FLUSHALL") == "+OK"
    server = start_server(environment, QUICK_MINIO).wait_ready()
    client, session_id = server.client(), new_id()
    acknowledged(client, "x = 1; _ = open('/mnt/data/kept.txt', 'w').write('one')", session_id)
    client.run(DIE, session_id=session_id)
    wait_for(
        lambda: redis_server.ask("EVAL", "return #redis.call('KEYS', 'kernelgate:head:*')", "0") == ":0", SOON
    )
    with outage(minio_server, how):
        error = refused(in_session(client, "print(x)", session_id))
        assert minio_server.address in error["message"]
        refused(asked(client, "GET", f"/sessions/{session_id}"))
    reply = acknowledged(client, "print(x, open('/mnt/data/kept.txt').read())", session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("1 one\n", "restored")
    assert client.delete(session_id).status_code == 204
    assert "Traceback" not in server.stderr


def test_wrong_minio_keys_are_told_of_and_not_repeated(
    start_server: StartServer, redis_server: RedisServer, minio_server: MinioServer
) -> None:
    """The server starts, its sessions in Redis work, its health says which settings are wrong."""
    wrong = minio_settings(minio_server, MINIO_SECRET_KEY=WRONG_PASSWORD, CONTAINER_POOL_PY_MIN="0")
    server = start_server({**redis_settings(redis_server), **wrong}).wait_ready()
    client = server.client()
    reply = client.run("x = 1")
    assert reply["state"]["captured"]
    assert acknowledged(client, "print(x)", reply["session_id"])["stdout"] == "1\n"
    message = client.health()["archive"]["message"]
    assert "MINIO_SECRET_KEY" in message
    wait_for(lambda: "MINIO_SECRET_KEY" in server.stderr)
    for said in (server.stderr, server.stdout, message):
        assert WRONG_PASSWORD not in said
    assert redis_server.ask("FLUSHALL") == "+OK"


# --- the disk


@contextlib.contextmanager
def mounted(folder: Path, size_mb: int) -> Iterator[Path]:
    """Mount a small file system of its own at ``folder``."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_of_and_room_helps(servers: Servers, tmp_path: Path) -> None:
    """The state does not fit below STATE_DIR: 503 state_not_saved; once there is room the session goes on."""
    with mounted(tmp_path / "disk", 16) as disk:
        server = servers.start({"STATE_DIR": str(disk / "state"), "CONTAINER_POOL_PY_MIN": "1"})
        try:
            fill_and_make_room(server.wait_ready(), disk)
        finally:
            servers.stop(server)


def fill_and_make_room(server: Server, disk: Path) -> None:
    client, session_id = server.client(), new_id()
    acknowledged(client, "x = 1; _ = open('/mnt/data/kept.txt', 'w').write('one')", session_id)
    acknowledged(client, "import numpy as np; make = np.random.default_rng(5).random", session_id)
    for _ in range(2):
        error = refused(in_session(client, "a = make(3_000_000)", session_id), "state_not_saved")
        assert (error["executed"], "full" in error["message"]) == (True, True), error
    acknowledged(client, "a = None", session_id)
    ballast = disk / "ballast"
    with contextlib.suppress(OSError):
        ballast.write_bytes(bytes(16 << 20))
    for each in (session_id, new_id()):
        error = refused(in_session(client, "y = make(100) if 'make' in globals() else 1", each), "state_not_saved")
        assert "full" in error["message"]
    assert client.session(session_id)["session_id"] == session_id
    assert client.health()["docker"]["status"] == "healthy"
    ballast.unlink()
    acknowledged(client, "y = 2", session_id)
    client.run(DIE, session_id=session_id)
    reply = acknowledged(client, "print(x, y, a, open('/mnt/data/kept.txt').read())", session_id)
    assert (reply["stdout"], reply["runtime_status"]) == ("1 2 None one\n", "restored")
    assert "Traceback" not in server.stderr
