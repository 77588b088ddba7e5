"""Whatever is killed, whenever: a session holds all that was acknowledged, in order, and nothing else.

Sessions are used all the time while containers, servers, Redis and MinIO are killed and started again. Each
execution appends its number to a list, to a file and to an array, and prints all three. What was acknowledged (200
and ``state.captured``) has to be the beginning of what the session shows from then on; after it may come numbers
that were sent and not acknowledged. The environment variables ``KERNELGATE_CRASH_ROUNDS`` and
``KERNELGATE_CRASH_SEED`` make longer and other runs.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import docker
import docker.errors
import pytest
import requests

from tests.server import Json, Server, Servers, containers_below, in_background, new_id
from tests.services import MinioServer, RedisServer, Service
from tests.test_outage import QUICK_MINIO, minio_settings, redis_settings

ROUNDS = int(os.environ.get("KERNELGATE_CRASH_ROUNDS", "6"))
SEED = int(os.environ.get("KERNELGATE_CRASH_SEED", "20"))
ALL_ROUNDS = 60.0 + 10.0 * ROUNDS
"""Seconds for a whole run; most of them are not needed."""

RECOVERY = 60.0
"""Seconds in which a session must answer again once everything runs."""

REFUSALS = {
    "store_unavailable",
    "state_not_saved",
    "session_in_use",
    "lease_lost",
    "kernel_start_failed",
    "kernel_died",
    "engine_unavailable",
    "shutting_down",
}
"""What a call may be refused with while things are killed."""

BEGIN = "import numpy as np; log, a = [], np.zeros(0, dtype=int); _ = open('/mnt/data/log', 'w').close()"
STEP = """
log.append({0})
a = np.append(a, {0})
with open('/mnt/data/log', 'a') as file:
    _ = file.write('{0} ')
"""
SHOW = """
import json
print(json.dumps([log, a.tolist(), [int(each) for each in open('/mnt/data/log').read().split()]]))
"""


class Refused(Exception):
    """A call was refused in one of the ways that are allowed."""


@dataclass(eq=False)
class Model:
    """What a session must contain, from what was sent and answered. Raises `AssertionError` when it does not."""

    session_id: str
    sent: int = 0
    kept: list[int] = field(default_factory=list)
    """What the last acknowledged answer showed: it stays."""
    acknowledged: int = 0

    def next(self) -> int:
        self.sent += 1
        return self.sent

    def check(self, reply: Json, number: int | None = None) -> None:
        """Compare what a reply shows; ``number`` is what its execution added, if that succeeded."""
        log, array, file = json.loads(reply["stdout"])
        told = f"{self} showed {log}, {array}, {file}: {reply}"
        assert log == array == file, told
        assert log[: len(self.kept)] == self.kept, told
        assert log == sorted(set(log)), told
        assert all(0 < each <= self.sent for each in log), told
        if number is not None:
            assert log[-1] == number, told
        if reply["state"]["captured"]:
            self.kept = log
            self.acknowledged += 1


def call(url: str, code: str, session_id: str, key: str) -> Json:
    """Run code; returns the reply when the code ended well. Raises `Refused` for all that may happen."""
    body = {"lang": "py", "code": code, "session_id": session_id}
    try:
        answer = requests.post(f"{url}/exec", json=body, headers={"x-api-key": key}, timeout=RECOVERY)
        reply = dict(answer.json())
    except requests.Timeout as error:
        raise AssertionError(f"no answer within {RECOVERY} s") from error
    except requests.RequestException as error:  # the server was killed
        raise Refused("no connection") from error
    if "error" in reply:
        assert reply["error"] in REFUSALS, answer.text
        assert reply["message"], answer.text
        raise Refused(reply["error"])
    assert answer.status_code == 200, answer.text
    if reply["status"] == "killed":
        assert not reply["state"]["captured"], reply
        raise Refused("killed")
    assert reply["status"] == "ok", reply
    return reply


class Site:
    """One server at a time, its successors, and the services that it uses."""

    def __init__(self, servers: Servers, environment: Mapping[str, str], services: Mapping[str, Service]) -> None:
        self._servers = servers
        self._environment = environment
        self.services = services
        self.server = self._start("")

    def _start(self, runtime_dir: str) -> Server:
        server = self._servers.start(self._environment, QUICK_MINIO, runtime_dir)
        return server.wait_ready()

    @property
    def victims(self) -> list[str]:
        return ["container", "server", *self.services]

    def kill(self, victim: str, pause: float, chance: random.Random) -> None:
        """Kill with SIGKILL; what does not come again by itself is started after ``pause``."""
        if victim == "container":
            self._kill_container(chance)
        elif victim == "server":
            self._kill_server(pause)
        else:
            self.services[victim].kill()
            time.sleep(pause)
            self.services[victim].start()

    def _kill_container(self, chance: random.Random) -> None:
        found = sorted(containers_below(self.server.runtime_dir), key=lambda each: (each["Created"], each["Id"]))
        if found:
            engine = docker.APIClient()
            try:
                engine.kill(chance.choice(found)["Id"])
            except docker.errors.APIError:
                pass  # it has ended by itself meanwhile
            finally:
                engine.close()

    def _kill_server(self, pause: float) -> None:
        old = self.server
        old.process.kill()
        old.wait()
        time.sleep(pause)
        log = old.stderr
        self.server = self._start(old.runtime_dir)
        self._servers.stop(old)
        assert faults(log) == [], log

    def call(self, code: str, session_id: str) -> Json:
        return call(self.server.url, code, session_id, self.server.environment["API_KEY"])

    def answered(self, code: str, session_id: str) -> Json:
        """Call again and again until the call is not refused."""
        deadline = time.monotonic() + RECOVERY
        while True:
            try:
                return self.call(code, session_id)
            except Refused as refusal:
                if time.monotonic() > deadline:
                    raise AssertionError(f"still refused after {RECOVERY} s") from refusal
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop all that runs; of the servers nothing may be left."""
        for service in self.services.values():
            service.start()
        last = self.server
        if last.process.poll() is not None:  # a failed run may end with a dead server
            self.server = self._start(last.runtime_dir)
            self._servers.stop(last)
        self._servers.stop(self.server)
        assert (self.server.containers(), self.server.folders()) == ([], [])


def faults(log: str) -> list[str]:
    """Return what errors ended the tracebacks in a log, but for those that kernelgate knows by name."""
    ends = [after.splitlines() for after in log.split("Traceback (most recent call last):\n")[1:]]
    last = [next((line for line in lines if not line.startswith(" ")), "") for lines in ends]
    return [line for line in last if not line.startswith("kernelgate.errors.")]


class Drive:
    """Uses sessions, each on a thread of its own, while somebody kills."""

    def __init__(self, site: Site, pauses: list[float], seed: int) -> None:
        self.site = site
        self.refusals: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        """Seconds from a kill until all sessions had shown themselves, at most."""
        self._chance = random.Random(seed)
        self._models = {Model(new_id()): pause for pause in pauses}
        self._stop = threading.Event()

    def run(self, rounds: int) -> None:
        """Drive ``rounds`` rounds; raises what went wrong first."""
        for model in self.models:
            assert self.site.answered(BEGIN, model.session_id)["state"]["captured"]
        for number in range(rounds):
            try:
                self._round()
            except BaseException as error:
                error.add_note(f"in round {number} of {rounds}; killed {dict(self.kills)}; {self.models}")
                raise

    @property
    def models(self) -> list[Model]:
        return list(self._models)

    def _round(self) -> None:
        """Kill one while all sessions are used; then look at each, in one or the other order."""
        self._stop.clear()
        users = [in_background(self._use, model, pause) for model, pause in self._models.items()]
        victim, before, during = (
            self._chance.choice(self.site.victims),
            self._chance.random(),
            self._chance.random(),
        )
        try:
            time.sleep(before)
            started = time.monotonic()
            self.site.kill(victim, during / 2, self._chance)
            self.kills[victim] += 1
            time.sleep(during / 2)
        finally:
            self._stop.set()
            self._wait(users)
        for model in self._chance.sample(self.models, len(self._models)):
            model.check(self.site.answered(SHOW, model.session_id))
        self.longest[victim] = round(max(self.longest.get(victim, 0.0), time.monotonic() - started), 1)

    def _wait(self, users: list[Future[None]]) -> None:
        for user in users:
            user.result(RECOVERY + 30)

    def _use(self, model: Model, pause: float) -> None:
        """Use one session until the round ends."""
        while not self._stop.is_set():
            number = model.next()
            try:
                model.check(self.site.call(STEP.format(number) + SHOW, model.session_id), number)
            except Refused as refusal:
                self.refusals[str(refusal)] += 1
                self._stop.wait(0.05)
            self._stop.wait(pause)


@pytest.fixture
def drive(servers: Servers) -> Iterator[Callable[..., Drive]]:
    """Makes a drive on a new site; in the end every container and folder of its servers is gone."""
    sites: list[Site] = []

    def make(environment: Mapping[str, str], services: Mapping[str, Service], pauses: list[float]) -> Drive:
        short = {"KERNEL_IDLE_SECONDS": "1", "MAX_EXECUTION_TIME": "20", "HISTORY_MAX_ENTRIES": "20"}
        sites.append(Site(servers, {"CONTAINER_POOL_PY_MIN": "2", **short, **environment}, services))
        return Drive(sites[-1], pauses, SEED)

    yield make
    for site in sites:
        log = site.server.stderr
        site.stop()
        assert faults(log) == [], log


def check(drive: Drive) -> None:
    """Drive all rounds; tells what was done."""
    started = time.monotonic()
    print(f"\nseed {SEED}, {ROUNDS} rounds")  # noqa: T201  a failed run is repeated with it
    drive.run(ROUNDS)
    acknowledged = sum(model.acknowledged for model in drive.models)
    seconds = time.monotonic() - started
    told = f"killed {dict(drive.kills)}; longest {drive.longest}; refused {dict(drive.refusals)}"
    print(f"{seconds:.0f} s, {acknowledged} acknowledged; {told}")  # noqa: T201
    assert acknowledged >= ROUNDS * len(drive.models)


@pytest.mark.timeout(ALL_ROUNDS)
def test_nothing_acknowledged_is_lost_with_the_embedded_store(drive: Callable[..., Drive], tmp_path: Path) -> None:
    """Kernels' containers and the server are killed."""
    check(drive({"STATE_DIR": str(tmp_path / "state")}, {}, [0.0, 0.0, 0.3]))


@pytest.mark.timeout(ALL_ROUNDS)
def test_nothing_acknowledged_is_lost_with_redis_and_minio(
    drive: Callable[..., Drive], redis_server: RedisServer, minio_server: MinioServer
) -> None:
    """Redis and MinIO are killed as well; one session pauses for so long that it is archived meanwhile."""
    assert redis_server.ask("FLUSHALL") == "+OK"
    archiving = {"STATE_ARCHIVE_AFTER_SECONDS": "1", "STATE_ARCHIVE_CHECK_INTERVAL_SECONDS": "1"}
    environment = {**redis_settings(redis_server), **minio_settings(minio_server), **archiving}
    services = {"redis": redis_server, "minio": minio_server}
    check(drive(environment, services, [0.0, 0.0, 2.0]))
