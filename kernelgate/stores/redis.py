"""The only door to Redis: live sessions that several servers share."""

from __future__ import annotations

import asyncio
import itertools
import re
import struct
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, TypeVar

import certifi
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, NoScriptError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from traitlets import Int, Unicode

from kernelgate.errors import BlobsMissing, LeaseLost, StoreError, StoreFull
from kernelgate.stores import scripts
from kernelgate.stores.scripts import Script
from kernelgate.stores.store import LEASE_MEMORY, Commit, Item, Items, Keys, Lease, SessionStore, check_names

T = TypeVar("T")
Argument = str | bytes | int

PREFIX = "kernelgate:"
USED = f"{PREFIX}used"
HEADS = f"{PREFIX}head:"
BLOBS = f"{PREFIX}blob:"

SLICE_BYTES = 4 << 20
"""Bytes that go through the loop at once: between two slices others have their turn."""

SLICE_KEYS = 500
POOL_SETTINGS = frozenset({"connection_class", "max_connections", "timeout"})
STAMP = struct.Struct(">d")
"""In front of each blob: when it was stored, in unix seconds."""

FULL = ("command not allowed when used memory", "No space left on device")
SENTENCES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((AuthenticationError,), "refuses the password: set REDIS_PASSWORD, or the one in REDIS_URL"),
    ((BusyLoadingError,), "is still loading its data: try again in a moment"),
    ((ReadOnlyError,), "is a replica, which cannot be written to: set REDIS_HOST or REDIS_URL to its primary"),
    ((TimeoutError, RedisTimeoutError), "did not answer in time: look at its load and its log"),
    ((RedisConnectionError, OSError), "cannot be reached: look whether it runs, and at REDIS_HOST or REDIS_URL"),
)


class RedisUrl(Unicode[str, str]):
    """The URL of a Redis."""

    info_text = "a URL such as redis://:password@host:6379/0 (or rediss://, unix://)"

    def validate(self, obj: Any, value: Any) -> str:
        url = super().validate(obj, value)
        if url:
            try:
                url_settings(url)
            except ValueError:
                self.error(obj, value)
        return url


def url_settings(url: str) -> dict[str, Any]:
    """Return the settings of a connection to ``url``; a name without a password is the password.

    Raises `ValueError`.
    """
    settings: dict[str, Any] = dict(parse_url(url))
    if "username" in settings and "password" not in settings:
        settings["password"] = settings.pop("username")
    kind = settings.get("connection_class", Connection)
    if issubclass(kind, SSLConnection):
        # OpenSSL takes the variable SSL_CERT_FILE for its authorities, and here it names the server's certificate.
        settings.setdefault("ssl_ca_certs", certifi.where())
    try:
        kind(**{name: value for name, value in settings.items() if name not in POOL_SETTINGS})
    except TypeError as error:
        raise ValueError("a setting in the URL that connections do not have") from error
    return settings


def is_used(given: Mapping[str, Any]) -> bool:
    """Tell whether live sessions are in Redis, from the settings that are given."""
    choice = given.get("STATE_STORE", "auto")
    return choice == "redis" or (choice == "auto" and ("REDIS_URL" in given or "REDIS_HOST" in given))


def unsafe_password(password: object, given: Mapping[str, Any]) -> str | None:
    """Say what is unsafe about a missing password."""
    host = given.get("REDIS_HOST", "localhost")
    if password or given.get("REDIS_URL") or not is_used(given) or is_this_machine(host):
        return None
    return f"empty, so whoever reaches the Redis on {host} may read and change all sessions"


def unsafe_url(url: str, given: Mapping[str, Any]) -> str | None:
    """Say what is unsafe about a URL without a password; a certificate of the client's is as good as one."""
    settings = url_settings(url) if url and is_used(given) else {}
    host = settings.get("host", "localhost")
    if is_this_machine(host) or settings.get("password") or settings.get("ssl_certfile"):
        return None
    return f"without a password, so whoever reaches the Redis on {host} may read and change all sessions"


def is_this_machine(host: str) -> bool:
    """Tell whether only programs on this machine get to what listens on ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


class RedisStore(SessionStore):
    """Sessions and blobs in Redis, whose own persistence decides what outlives its machine.

    Keys: ``kernelgate:`` and then ``blob:<name>``, ``head:<key>``, ``lease:<key>``, ``lock:<name>``, ``used``
    (when each session was), ``index:<owner>`` and ``ends:<owner>`` (what `sessions` returns, and when it ends).
    """

    host = Unicode(
        "localhost",
        help="Host of the Redis server. Once it is given, live sessions are in Redis (see STATE_STORE).",
    ).tag(config=True, env="REDIS_HOST", group="Redis")
    port = Int(6379, min=1, max=65535, help="Port of the Redis server.").tag(
        config=True, env="REDIS_PORT", group="Redis"
    )
    password = Unicode("", help="Password of the Redis server, when it has one.").tag(
        config=True, env="REDIS_PASSWORD", group="Redis", secret=True, insecure_with=unsafe_password
    )
    db = Int(0, min=0, help="Number of the Redis database.").tag(config=True, env="REDIS_DB", group="Redis")
    url = RedisUrl(
        "",
        help="The Redis server as a URL, such as redis://:password@localhost:6379/0, rediss://… with TLS or "
        "unix://… for a socket. It stands in for REDIS_HOST, REDIS_PORT, REDIS_PASSWORD and REDIS_DB.",
    ).tag(config=True, env="REDIS_URL", group="Redis", secret=True, insecure_with=unsafe_url)
    max_connections = Int(20, min=1, help="Connections to Redis that may be open at once.").tag(
        config=True, env="REDIS_MAX_CONNECTIONS", group="Redis"
    )
    socket_timeout = Int(5, min=1, help="Seconds that Redis has for an answer.").tag(
        config=True, env="REDIS_SOCKET_TIMEOUT", group="Redis"
    )
    socket_connect_timeout = Int(5, min=1, help="Seconds that a connection to Redis may take to be made.").tag(
        config=True, env="REDIS_SOCKET_CONNECT_TIMEOUT", group="Redis"
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._redis: Redis | None = None
        self._sequence = itertools.count(1)

    @property
    def place(self) -> str:
        """The server in words, without its password."""
        settings = self._connection()
        return str(settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}")

    def _connection(self) -> dict[str, Any]:
        if self.url:
            return url_settings(self.url)
        return {"host": self.host, "port": self.port, "db": self.db, "password": self.password or None}

    # ---- its life

    async def open(self) -> None:
        if self._redis is None:
            settings = {
                "max_connections": self.max_connections,
                "timeout": self.socket_timeout,
                "socket_timeout": self.socket_timeout,
                "socket_connect_timeout": self.socket_connect_timeout,
                "protocol": 2,
                "retry": Retry(NoBackoff(), 1, (RedisConnectionError,)),
                **self._connection(),
            }
            self._redis = Redis.from_pool(BlockingConnectionPool(**settings))

    async def close(self) -> None:
        redis, self._redis = self._redis, None
        if redis is not None:
            await redis.aclose()

    async def check(self) -> None:
        await self._ask(lambda redis: redis.execute_command("PING"))

    # ---- blobs

    async def put(self, blobs: Mapping[str, bytes], ttl: float | None = None) -> None:
        check_names(blobs)
        expiry: tuple[Argument, ...] = () if ttl is None else ("PX", ms(ttl))
        stamp = STAMP.pack(time.time())
        for part in slices({name: len(blob) for name, blob in blobs.items()}):
            await self._ask_all([("SET", BLOBS + name, stamp + blobs[name], *expiry) for name in part])

    async def get(self, names: Iterable[str]) -> dict[str, bytes]:
        wanted = list(names)
        sizes = await self._ask_all([("STRLEN", BLOBS + name) for name in wanted])
        found = {}
        for part in slices({name: size for name, size in zip(wanted, sizes, strict=True) if size}):
            values = await self._ask_all([("GET", BLOBS + name) for name in part])
            there = {name: value for name, value in zip(part, values, strict=True) if value is not None}
            found.update({name: value[STAMP.size :] for name, value in there.items()})
        return found

    async def missing(self, names: Iterable[str]) -> set[str]:
        wanted = list(names)
        lost = set[str]()
        for start in range(0, len(wanted), SLICE_KEYS):
            part = wanted[start : start + SLICE_KEYS]
            found = await self._ask_all([("EXISTS", BLOBS + name) for name in part])
            lost.update(name for name, there in zip(part, found, strict=True) if not there)
        return lost

    async def delete(self, names: Iterable[str]) -> None:
        keys = [BLOBS + name for name in names]
        for start in range(0, len(keys), SLICE_KEYS):
            await self._ask_all([("UNLINK", *keys[start : start + SLICE_KEYS])])

    async def list(self, prefix: str) -> Items:
        pattern = BLOBS + re.sub(r"([*?\[\]\\^-])", r"\\\1", prefix) + "*"
        items: dict[str, Item] = {}
        cursor = b"0"
        while True:
            ((cursor, keys),) = await self._ask_all([("SCAN", cursor, "MATCH", pattern, "COUNT", SLICE_KEYS)])
            sizes = await self._ask_all([("STRLEN", key) for key in keys])
            stamps = await self._ask_all([("GETRANGE", key, 0, STAMP.size - 1) for key in keys])
            for key, size, stamp in zip(keys, sizes, stamps, strict=True):
                if len(stamp) == STAMP.size:
                    name = key.decode().removeprefix(BLOBS)
                    items[name] = Item(name, size - STAMP.size, STAMP.unpack(stamp)[0])
            if int(cursor) == 0:
                return [*items.values()]

    # ---- leases

    async def acquire(
        self, key: str, holder: str, ttl: float, dead: Collection[str] = (), to_free: bool = False
    ) -> Lease | None:
        keys = lease_key(key), HEADS + key
        answer = await self._run(scripts.ACQUIRE, keys, (holder, ms(ttl), ms(LEASE_MEMORY), int(to_free), *dead))
        return None if answer is None else Lease(key, holder, int(answer[0]), answer[1])

    async def renew(self, lease: Lease, ttl: float) -> bool:
        [verdict] = await self._change(scripts.RENEW, lease, (), lease.holder, ms(ttl))
        return bool(verdict == b"done")

    async def release(self, lease: Lease) -> None:
        await self._change(scripts.RELEASE, lease, ())

    async def lock(self, name: str, holder: str, ttl: float) -> bool:
        return bool(await self._run(scripts.LOCK, (f"{PREFIX}lock:{name}",), (holder, ms(ttl))))

    async def unlock(self, name: str, holder: str) -> None:
        await self._run(scripts.UNLOCK, (f"{PREFIX}lock:{name}",), (holder,))

    # ---- sessions

    async def commit(self, lease: Lease, commit: Commit) -> None:
        await self.put(commit.blobs, commit.blob_life)
        new = list(commit.blobs)
        kept = [name for name in commit.keep if name not in commit.blobs]
        keys = *session_keys(lease.key, commit.owner), *(BLOBS + name for name in (*new, *kept, *commit.dropped))
        record = commit.key, commit.head, commit.info, repr(commit.used_at)
        lives = ms(commit.ttl), ms(commit.blob_life), ms(commit.index_ttl)
        answer = await self._change(
            scripts.COMMIT, lease, keys, lease.holder, *record, *lives, len(new), len(kept)
        )
        if answer[0] == b"missing":
            raise BlobsMissing([[*new, *kept][int(number)] for number in answer[1:]])
        self._check(answer, lease)

    async def head(self, key: str) -> bytes | None:
        [head] = await self._ask_all([("GET", HEADS + key)])
        return None if head is None else bytes(head)

    async def remove(self, lease: Lease, owner: str, drop: Collection[str]) -> None:
        await self._drop(lease, owner, drop, 1)

    async def evict(self, lease: Lease, drop: Collection[str]) -> None:
        await self._drop(lease, "", drop, 0)

    async def _drop(self, lease: Lease, owner: str, drop: Collection[str], forget: int) -> None:
        keys = *session_keys(lease.key, owner), *(BLOBS + name for name in drop)
        self._check(await self._change(scripts.DROP, lease, keys, lease.key, forget), lease)

    async def sessions(self, owner: str) -> dict[str, bytes]:
        flat = await self._run(scripts.SESSIONS, session_keys("", owner)[3:], ())
        return {key.decode(): info for key, info in zip(flat[::2], flat[1::2], strict=True)}

    async def idle(self, before: float, limit: int) -> Keys:
        found = await self._run(scripts.IDLE, (USED,), (HEADS, repr(before), limit, SLICE_KEYS))
        return [key.decode() for key in found]

    async def sweep(self) -> int:
        first = total = 0
        looked = 1
        while looked:
            looked, removed = await self._run(scripts.SWEEP, (USED,), (HEADS, first, SLICE_KEYS))
            first += looked - removed
            total += removed
        return total

    # ---- how Redis is asked

    async def _change(
        self, script: Script, lease: Lease, keys: Sequence[str], *arguments: Argument
    ) -> Sequence[bytes]:
        """Run a script that begins with `scripts.CHANGE`; returns its verdict, and what goes with it."""
        given = lease.token, next(self._sequence), ms(LEASE_MEMORY), *arguments
        answer: Sequence[bytes] = await self._run(script, keys or (lease_key(lease.key),), given)
        return answer

    def _check(self, answer: Sequence[bytes], lease: Lease) -> None:
        if answer[0] == b"lost":
            raise LeaseLost(f"the session {lease.key} was taken over by another server: nothing was stored")

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        async def run(redis: Redis) -> Any:
            given = len(keys), *keys, *arguments
            try:
                return await redis.execute_command("EVALSHA", script.sha, *given)
            except NoScriptError:
                return await redis.execute_command("EVAL", script.text, *given)

        return await self._ask(run)

    async def _ask_all(self, commands: Sequence[tuple[Argument, ...]]) -> Sequence[Any]:
        """Send commands together; returns their answers when all succeeded."""

        async def send(redis: Redis) -> list[Any]:
            pipeline = redis.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            answers = await pipeline.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, RedisError):
                    raise answer
            return answers

        return await self._ask(send) if commands else []

    async def _ask(self, ask: Callable[[Redis], Awaitable[T]]) -> T:
        """Ask once, within the time for a connection and an answer."""
        if self._redis is None:
            raise StoreError("the Redis store is not open")
        try:
            with cancels_kept():
                async with asyncio.timeout(self.socket_connect_timeout + self.socket_timeout):
                    return await ask(self._redis)
        except (RedisError, OSError) as error:
            raise self._translated(error) from error

    def _translated(self, error: RedisError | OSError) -> StoreError:
        """Return what is to be told of a failure. Redis repeats no password, so none gets into it."""
        text = str(error)
        if any(mark in text for mark in FULL):
            return StoreFull(f"the Redis at {self.place} is full: raise its maxmemory, or make room on its disk")
        for kinds, sentence in SENTENCES:
            if isinstance(error, kinds):
                return StoreError(f"the Redis at {self.place} {sentence} ({text or type(error).__name__})")
        return StoreError(f"the Redis at {self.place} failed: {text}")


@contextmanager
def cancels_kept() -> Iterator[None]:
    """Let no cancel of the task get lost inside.

    redis-py sends within `asyncio.wait_for`, which in Python 3.11 drops a cancel that meets the end of its wait.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


def ms(seconds: float) -> int:
    """Return whole milliseconds, at least one."""
    return max(1, round(seconds * 1000))


def lease_key(key: str) -> str:
    return f"{PREFIX}lease:{key}"


def session_keys(key: str, owner: str) -> tuple[str, ...]:
    """Return the keys that the scripts call lease, head, used, index, ends."""
    return lease_key(key), HEADS + key, USED, f"{PREFIX}index:{owner}", f"{PREFIX}ends:{owner}"


def slices(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the names in parts of at most `SLICE_BYTES` (or of one name) and `SLICE_KEYS`."""
    part: list[str] = []
    room = SLICE_BYTES
    for name, size in sizes.items():
        if part and (size > room or len(part) == SLICE_KEYS):
            yield part
            part, room = [], SLICE_BYTES
        part.append(name)
        room -= size
    if part:
        yield part
