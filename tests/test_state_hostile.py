"""State that attacks or was damaged: its owner is told, nobody else notices, the gateway never loads it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from kernelgate.auth import Owner
from kernelgate.sessions.record import Manifest, Record, blob_name
from kernelgate.sessions.seal import SEAL_BYTES, Seal
from kernelgate.sessions.vault import Vault
from tests.server import KEY, OTHER_KEY, PROMPT, Client, Json, Server, Servers, in_background, new_id, wait_for

SAVE_SECONDS = 2
RESTORE_SECONDS = 3
LIMIT_MB = 8
BOUND = 20.0
"""Seconds in which a call is answered whose saving has to be given up, with room to spare."""

DIE = "import os\nos.kill(os.getpid(), 9)"


@pytest.fixture(scope="module")
def keeper(servers: Servers) -> Iterator[Server]:
    """A server with short times and a low limit. No error of its own may be in its log."""
    environment = {
        "CONTAINER_POOL_PY_MIN": "2",
        "MAX_EXECUTION_TIME": "4",
        "STATE_SAVE_TIMEOUT_SECONDS": str(SAVE_SECONDS),
        "STATE_RESTORE_TIMEOUT_SECONDS": str(RESTORE_SECONDS),
        "STATE_MAX_SIZE_MB": str(LIMIT_MB),
    }
    with servers.serving(environment) as server:
        yield server


@pytest.fixture(scope="module")
def bystander(keeper: Server) -> Iterator[Callable[[], None]]:
    """Checks that another owner's session answers promptly and has its own state."""
    client, session_id = keeper.client(OTHER_KEY), new_id()
    client.run("calls = 0", session_id=session_id)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        started = time.monotonic()
        reply = client.run("calls += 1\nprint(calls)", session_id=session_id)
        assert (reply["stdout"], reply["runtime_status"], reply["state"]["captured"]) == (
            f"{calls}\n",
            "reused",
            True,
        )
        assert time.monotonic() - started < PROMPT

    yield check
    client.delete(session_id)


@pytest.fixture
def session_id(keeper: Server) -> Iterator[str]:
    session_id = new_id()
    yield session_id
    keeper.client().delete(session_id)


@pytest.fixture
def attack(keeper: Server, session_id: str, bystander: Callable[[], None]) -> Callable[[str], Json]:
    """Runs code in a session of its own, to be answered in time, while another owner's calls are checked."""

    def run(code: str) -> Json:
        running = in_background(keeper.client().run, code, session_id=session_id)
        started = time.monotonic()
        while not running.done():
            bystander()
            wait([running], 0.3)
        assert time.monotonic() - started < BOUND
        return running.result()

    return run


def lose_kernel(client: Client, session_id: str) -> None:
    assert client.run(DIE, session_id=session_id)["status"] == "killed"


def skipped(reply: Json) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in reply["state"]["skipped"]}


# --- objects that attack while they are saved


def saved_by(body: str) -> str:
    return f"class A:\n    def __reduce__(self):\n        import os, sys, time\n{body}\nkept = 1\na = A()"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("        while True: pass", "longer"),
        ("        while True:\n            try:\n                while True: pass\n"
         "            except BaseException: pass", "longer"),
        ("        sys.exit(3)", "SystemExit"),
        ("        raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("        return self.__reduce__()", "deep"),
        ("        return 5", ""),
        ("        raise RuntimeError('\\ud800' + 'x' * 100_000)", "RuntimeError"),
    ],
    ids=["hangs", "swallows", "leaves", "interrupts", "recurses", "is no reduction", "says much"],
)  # fmt: skip
def test_an_object_that_cannot_be_saved_is_left_out(
    keeper: Server, session_id: str, attack: Callable[[str], Json], body: str, reason: str
) -> None:
    reply = attack(saved_by(body))
    assert (reply["status"], reply["state"]["captured"]) == ("ok", True), reply
    assert set(skipped(reply)) == {"a"}
    assert reason in skipped(reply)["a"]
    assert len(skipped(reply)["a"]) <= 200
    lose_kernel(keeper.client(), session_id)
    assert attack("print(kept, 'a' in globals())")["stdout"] == "1 False\n"


def test_what_getstate_raises_is_told(attack: Callable[[str], Json]) -> None:
    reply = attack("class A:\n    def __getstate__(self): raise ValueError('mine')\na, b = A(), 1")
    assert skipped(reply) == {"a": "ValueError: mine"}


@pytest.mark.parametrize(
    "body", ["        os._exit(3)", "        os.kill(os.getpid(), 9)"], ids=["exits", "kills"]
)
def test_a_kernel_that_ends_while_it_is_saved_is_noticed_at_once(attack: Callable[[str], Json], body: str) -> None:
    attack("x = 1")
    started = time.monotonic()
    reply = attack(saved_by(body))
    assert time.monotonic() - started < SAVE_SECONDS + 2
    assert (reply["state"]["captured"], reply["state"]["version"]) == (False, 1)
    assert "ended" in reply["state"]["error"]
    reply = attack("print(x)")
    assert (reply["runtime_status"], reply["stdout"]) == ("restored", "1\n")


def test_saving_that_cannot_be_interrupted_is_given_up(attack: Callable[[str], Json]) -> None:
    attack("x = 1")
    reply = attack(saved_by("        sum(range(10 ** 12))"))
    assert (reply["state"]["captured"], reply["state"]["version"]) == (False, 1)
    assert reply["state"]["error"]
    assert attack("print(x)")["stdout"] == "1\n"


@pytest.mark.parametrize(
    "limit", ["", "import sys\nsys.setrecursionlimit(10 ** 6)\n"], ids=["usual limit", "high limit"]
)
def test_deep_nesting_is_left_out(
    keeper: Server, session_id: str, attack: Callable[[str], Json], limit: str
) -> None:
    reply = attack(
        f"{limit}kept = 1\nclass Node: pass\ndeep, chain = [], None\n"
        "for _ in range(10 ** 5):\n    deep, node = [deep], Node()\n    node.next, chain = chain, node\ndel node"
    )
    assert {"deep", "chain"} <= set(skipped(reply)), reply
    assert "deep" in skipped(reply)["deep"]
    lose_kernel(keeper.client(), session_id)
    assert attack("print(kept)")["stdout"] == "1\n"


def test_what_exceeds_the_limit_is_left_out_and_the_rest_is_kept(attack: Callable[[str], Json]) -> None:
    reply = attack(f"import os\nkept = 1\nbig = os.urandom(({LIMIT_MB} << 20) + 1)\nsmall = os.urandom(1 << 20)")
    assert set(skipped(reply)) == {"big"}
    assert "too large" in skipped(reply)["big"]
    assert (1 << 20) < reply["state"]["bytes"] < (2 << 20)


def test_many_names_are_bounded_and_counted(
    keeper: Server, session_id: str, attack: Callable[[str], Json]
) -> None:
    reply = attack("kept = 1\nfor n in range(1000): globals()[f'u{n}'] = (m for m in ())")
    assert (len(reply["state"]["skipped"]), reply["state"]["skipped_count"]) == (200, 1000)
    assert len(json.dumps(reply["state"])) < 100_000
    reply = attack("for n in range(1000): del globals()[f'u{n}']\nfor n in range(20_000): globals()[f's{n}'] = n")
    assert (reply["state"]["captured"], reply["state"]["skipped_count"]) == (True, 0)
    lose_kernel(keeper.client(), session_id)
    assert attack("print(kept, s0, s19999)")["stdout"] == "1 0 19999\n"


def test_what_threads_change_meanwhile_is_saved_somehow(
    keeper: Server, session_id: str, attack: Callable[[str], Json]
) -> None:
    attack(
        "import threading, numpy as np\nkept, array, table, items = 1, np.zeros(500_000), {}, []\ndef work():\n"
        "    n = 0\n    while True:\n        n += 1\n        array[:] = n\n        table[n % 999] = n\n"
        "        table.pop(n * 7 % 999, None)\n        items.append(n)\n        n % 1000 or items.clear()\n"
        "thread = threading.Thread(target=work, daemon=True)\nthread.start()\ndel thread"
    )
    for _ in range(3):
        reply = attack("pass")
        assert reply["state"]["captured"], reply["state"]
        assert "kept" not in skipped(reply)
    lose_kernel(keeper.client(), session_id)
    assert attack("print(kept, array.shape)")["stdout"] == "1 (500000,)\n"


# --- objects that attack while they are loaded


def loaded_by(body: str) -> str:
    return (
        f"def load(*args):\n    import os, sys, time\n    {body}\n"
        "class A:\n    def __reduce__(self): return load, (1,)\nkept = 1\na = A()"
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (loaded_by("\n    while True: pass"), "longer"),
        (loaded_by("os._exit(3)"), "ended"),
        (loaded_by("os.kill(os.getpid(), 9)"), "ended"),
        (loaded_by("sum(range(10 ** 12))"), "loaded within"),
        ("class A:\n    def __reduce__(self): return bytearray, (10 << 30,)\na = A()", "ran out of memory"),
        (loaded_by("return [b'x' * (16 << 20) for _ in range(640)]"), "ran out of memory"),
    ],
    ids=["hangs", "exits", "kills itself", "cannot be interrupted", "bomb", "hoards"],
)
def test_a_state_that_cannot_be_loaded_is_told_of_and_the_session_begins_anew(
    keeper: Server, session_id: str, attack: Callable[[str], Json], code: str, reason: str
) -> None:
    assert attack(code)["state"]["captured"]
    lose_kernel(keeper.client(), session_id)
    reply = attack("print('kept' in globals())\nfresh = 1")
    assert (reply["status"], reply["runtime_status"], reply["stdout"]) == ("ok", "new", "False\n")
    assert reason in reply["state"]["restored"]["error"]
    assert reply["state"]["restored"]["error"] in reply["stderr"]
    assert (reply["state"]["captured"], reply["state"]["version"]) == (True, 2)
    assert attack("print(fresh)")["stdout"] == "1\n"


@pytest.mark.parametrize("body", ["raise ValueError('mine')", "sys.exit(1)", "raise KeyboardInterrupt"])
def test_an_object_that_fails_to_load_is_lost_alone(
    keeper: Server, session_id: str, attack: Callable[[str], Json], body: str
) -> None:
    assert attack(loaded_by(body))["state"]["captured"]
    lose_kernel(keeper.client(), session_id)
    reply = attack("print(kept, 'a' in globals())")
    assert (reply["stdout"], reply["runtime_status"]) == ("1 False\n", "restored")
    (lost,) = reply["state"]["restored"]["lost"]
    assert (lost["name"], lost["type"]) == ("a", "A")
    assert lost["reason"]


# --- messages that user code forges

FORGE = """
import hashlib, json
kernel = get_ipython().kernel
parent = kernel.get_parent('shell')
wish = parent['metadata']['kernelgate']['save']
ident = kernel._get_shell_context_var(kernel._shell_parent_ident)
def send(content, buffers=(), parent=parent):
    socket = kernel.shell_stream.socket
    kernel.session.send(socket, 'kernelgate_state', content, parent=parent, ident=ident, buffers=list(buffers))
def layout(**changes):
    return {'format': 1, 'python': '3.11', 'dill': None, 'execution_count': 1, 'streams': [[0], [1]],
            'sizes': [2, 3], 'names': 1, 'skipped': [], 'skipped_count': 0, 'files': [], 'files_skipped': [],
            'files_skipped_count': 0, **changes}
def last(buffers=(b'{}', b'abc'), tag=wish['tag'], **changes):
    send({'last': True, 'tag': tag, 'layout': layout(**changes), 'error': None}, buffers)
def file(**changes):
    last(files=[{'path': 'f', 'size': 2, 'mode': 0o644, 'mtime_ns': 1, 'chunks': [0], **changes}])
"""

REFUSED = {
    "a wrong tag": "last(tag='x')",
    "a format that nobody knows": "last(format=2)",
    "no layout": "send({'last': True, 'tag': wish['tag'], 'layout': 7, 'error': 'mine'})",
    "an error that is no text": "send({'last': True, 'tag': wish['tag'], 'layout': None, 'error': [1]})",
    "chunks that nobody sent": "last(streams=[[7], [8]])",
    "a negative chunk": "last(streams=[[-1], [1]])",
    "true for a chunk": "last(streams=[[True], [1]])",
    "somebody else's digest": "last(streams=[['DIGEST'], [1]], sizes=[200000, 3])",
    "fewer chunks than bytes": "last(sizes=[10 << 20, 3])",
    "negative sizes": "last(sizes=[-2, 3])",
    "sizes over the limit": "last(streams=[[0] * 100, [1]], sizes=[200 << 20, 3])",
    "many streams": "last(streams=[[]] * 100_000, sizes=[0] * 100_000)",
    "no streams": "last(streams=[], sizes=[])",
    "a chunk that is too large": "last(buffers=[bytes((2 << 20) + 1), b'x'])",
    "an empty chunk": "last(buffers=[b'', b'x'])",
    "far too many chunks": "for n in range(60): send({'last': False}, [n.to_bytes(2, 'big') * (1 << 20)])",
    "texts that are none": "last(python=[1], dill={})",
    "counts that are none": "last(names=1e308, execution_count='5')",
    "skipped that is none": "last(skipped=[5], skipped_count=-1)",
    "a path out of the folder": "file(path='../../tmp/x')",
    "an absolute path": "file(path='/tmp/x')",
    "a path that is no text": "file(path='a\\ud800')",
    "a path of many parts": "file(path='a/' * 3000 + 'b')",
    "a path twice": "last(files=[{'path': 'f', 'folder': True, 'mode': 1}] * 2)",
    "a file that is too large": "file(size=1 << 40)",
    "a time that is none": "file(mtime_ns=1 << 80)",
    "files without end": "last(files=[{'path': str(n), 'folder': True, 'mode': 1} for n in range(100_000)])",
}  # fmt: skip


@pytest.fixture(scope="module")
def victim(keeper: Server) -> Iterator[str]:
    """The digest of a chunk of another owner's state."""
    client, session_id, chunk = keeper.client(OTHER_KEY), new_id(), b"S" * 200_000
    client.run("import numpy as np\nsecret = np.full(200_000, ord('S'), 'u1')", session_id=session_id)
    files = (Path(keeper.environment["STATE_DIR"]) / "blobs").rglob("*-*")
    assert any(path.read_bytes() == chunk for path in files)
    yield hashlib.sha256(chunk).hexdigest()
    client.delete(session_id)


@pytest.fixture(scope="module")
def forger(keeper: Server) -> Iterator[Callable[[str], Json]]:
    """Runs code, which may forge messages, in a session that several tests share."""
    client, session_id = keeper.client(), new_id()
    client.run("kept = 1", session_id=session_id)
    yield lambda code: client.run(FORGE + code, session_id=session_id)
    client.delete(session_id)


@pytest.mark.parametrize("forgery", REFUSED)
def test_a_forged_state_is_refused(
    forger: Callable[[str], Json], bystander: Callable[[], None], victim: str, forgery: str
) -> None:
    started = time.monotonic()
    reply = forger(REFUSED[forgery].replace("DIGEST", victim))
    assert time.monotonic() - started < BOUND
    assert reply["status"] == "ok", reply
    state = reply["state"]
    assert not state["captured"] or state["saved"] > 1, (
        state
    )  # refused, or what is not meant for anybody is dropped
    assert state["captured"] or state["error"]
    bystander()
    after = forger("print(kept)")
    assert (after["stdout"], after["state"]["captured"]) == ("1\n", True), after


def test_a_forged_state_that_is_well_formed_hurts_its_owner_only(
    keeper: Server, session_id: str, attack: Callable[[str], Json]
) -> None:
    attack("kept = 1")
    reply = attack(FORGE + "last()")
    assert (reply["state"]["captured"], reply["state"]["version"]) == (True, 2)
    lose_kernel(keeper.client(), session_id)
    started = time.monotonic()
    reply = attack("print('kept' in globals())")
    assert time.monotonic() - started < RESTORE_SECONDS
    assert (reply["runtime_status"], reply["stdout"]) == ("new", "False\n")
    assert reply["state"]["restored"]["error"]
    answer = keeper.client().request("POST", f"/sessions/{session_id}/undo", json={"steps": 3})
    assert answer.json()["version"] == 1, answer.text
    assert attack("print(kept)")["stdout"] == "1\n"


def test_a_flood_of_forged_messages_is_outlived(attack: Callable[[str], Json]) -> None:
    reply = attack(FORGE + "stranger = {**parent, 'header': {**parent['header'], 'msg_id': 'x'}}\n"
                   "for _ in range(2000): send({'last': False}, [bytes(1000)] * 4, stranger)\n"
                   "for _ in range(20_000): send({'last': False})")  # fmt: skip
    assert reply["status"] in ("ok", "timeout", "killed")
    assert attack("print(1)")["stdout"] == "1\n"


SENDERS = (
    "import sys\nsenders = [m for n, m in sys.modules.items() if n.endswith('state.sender')]\nassert senders\n"
)


@pytest.mark.parametrize(
    "code",
    [
        "get_ipython().kernel._snapshots = None",
        SENDERS + "senders[0].Sender.send = lambda *args: None",
        SENDERS + "def hang(*args):\n    while True: pass\nsenders[0].Sender.send = hang",
        SENDERS
        + "senders[0].Sender.send = lambda self, *args: self._session.send(self._stream, 'kernelgate_state', "
        "{'last': True, 'tag': 5, 'layout': 7}, parent=self._parent, ident=self._ident)",
        "get_ipython().kernel.shell_stream.socket.close(0)",
        "import os\nfor number in range(3, 1000):\n    try: os.close(number)\n    except OSError: pass",
    ],
    ids=["no snapshots", "silence", "a hang", "garbage", "no socket", "no descriptors"],
)
def test_a_kernel_whose_insides_are_broken_is_answered_for(
    keeper: Server, session_id: str, attack: Callable[[str], Json], code: str
) -> None:
    attack("kept = 1")
    reply = attack(code)
    assert (reply["state"]["captured"], reply["state"]["version"]) == (False, 1), reply
    assert reply["state"]["error"]
    keeper.client().run(DIE, session_id=session_id)
    reply = attack("print(kept)")
    assert (reply["runtime_status"], reply["stdout"]) == ("restored", "1\n"), reply


# --- damaged stores

OWNER = Owner(hashlib.sha256(KEY.encode()).hexdigest())
SEALED_WITH = Seal(f"of {KEY}")


class Shelf:
    """One session in a store that no server uses at the moment."""

    def __init__(self, store: Path, session_id: str) -> None:
        self.store = store
        self.key = Vault.key(OWNER, session_id)
        with self._database() as db:
            (self.head,) = db.execute("SELECT head FROM heads WHERE key = ?", (self.key,)).fetchone()
        self.record = Record.from_bytes(self.head[SEAL_BYTES:])

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(self.store / "state.db", isolation_level=None)

    def put_head(self, head: bytes) -> None:
        with closing(self._database()) as db:
            db.execute("UPDATE heads SET head = ? WHERE key = ?", (head, self.key))

    def damage(self, names: list[str], change: Callable[[bytes], bytes]) -> None:
        """Change blobs, wherever they are."""
        assert names
        with closing(self._database()) as db:
            for name in names:
                file, data = db.execute("SELECT file, data FROM blobs WHERE name = ?", (name,)).fetchone()
                if file is None:
                    db.execute("UPDATE blobs SET data = ? WHERE name = ?", (change(data), name))
                else:
                    path = self.store / "blobs" / file
                    path.write_bytes(change(path.read_bytes()))

    @property
    def manifest(self) -> Manifest:
        with closing(self._database()) as db:
            name = self.record.versions[1].manifest
            return Manifest.from_bytes(db.execute("SELECT data FROM blobs WHERE name = ?", (name,)).fetchone()[0])

    def streams(self, large: bool) -> list[str]:
        """Return the blobs of the main streams, or of the large buffers."""
        manifest = self.manifest
        streams = manifest.layout["streams"][2:] if large else manifest.layout["streams"][:2]
        return [manifest.names[digest] for stream in streams for digest in stream]

    def put_manifest(self, manifest: Manifest) -> None:
        """Store another manifest, sealed as a server does it."""
        data = manifest.to_bytes()
        name = blob_name(self.record.space, hashlib.sha256(data).hexdigest())
        self.record.versions[1] = replace(self.record.versions[1], manifest=name)
        with closing(self._database()) as db:
            db.execute("INSERT INTO blobs VALUES (?, ?, ?, NULL, NULL, ?)", (name, len(data), time.time(), data))
        self.put_head(SEALED_WITH.close(self.key, self.record.to_bytes()))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def other_python(shelf: Shelf) -> None:
    manifest = shelf.manifest
    shelf.put_manifest(Manifest({**manifest.layout, "python": "2.7"}, manifest.names))


DAMAGES: dict[str, tuple[Callable[[Shelf], None], str]] = {
    "bit in a file": (lambda shelf: shelf.damage(shelf.streams(large=True), flipped), "check"),
    "cut file": (lambda shelf: shelf.damage(shelf.streams(large=True), cut), ""),
    "empty file": (lambda shelf: shelf.damage(shelf.streams(large=True), lambda _: b""), ""),
    "bit in a row": (lambda shelf: shelf.damage(shelf.streams(large=False), flipped), "check"),
    "cut row": (lambda shelf: shelf.damage(shelf.streams(large=False), cut), ""),
    "bit in the manifest": (lambda shelf: shelf.damage([shelf.record.versions[1].manifest], flipped), "check"),
    "other python": (other_python, "Python 2.7"),
}
RECORD_DAMAGES: dict[str, Callable[[Shelf, Shelf], bytes]] = {
    "bit in the record": lambda shelf, _other: flipped(shelf.head),
    "cut record": lambda shelf, _other: shelf.head[:20],
    "copied record": lambda _shelf, other: other.head,
}
"""What becomes of the record of a session beside that of another one."""


@pytest.fixture(scope="module")
def damaged(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, dict[str, str]]]:
    """A client of a server whose store was damaged meanwhile; the sessions by what was done to them."""
    store = tmp_path_factory.mktemp("damaged") / "state"
    first = servers.start({"STATE_DIR": str(store), "CONTAINER_POOL_PY_MIN": "2"})
    ids = {name: new_id() for name in (*DAMAGES, *RECORD_DAMAGES, "none", "bit in the history")}
    try:
        client = first.wait_ready().client()
        for session_id in ids.values():
            client.run(
                f"import os, numpy as np\nmine = {session_id!r}\n"
                "big = np.frombuffer(os.urandom(100_000), 'u1').copy()",
                session_id=session_id,
            )
    finally:
        servers.stop(first)
    for name, (damage, _reason) in DAMAGES.items():
        damage(Shelf(store, ids[name]))
    for name, record_damage in RECORD_DAMAGES.items():
        shelf = Shelf(store, ids[name])
        shelf.put_head(record_damage(shelf, Shelf(store, ids["none"])))
    history = Shelf(store, ids["bit in the history"])
    history.damage([history.record.entries[0].blob], flipped)
    second = servers.start({"STATE_DIR": str(store), "CONTAINER_POOL_PY_MIN": "2"}, runtime_dir=first.runtime_dir)
    try:
        yield second.wait_ready().client(), ids
        assert "Traceback" not in second.stderr, second.stderr
    finally:
        servers.stop(second)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_refused_and_the_session_begins_anew(
    damaged: tuple[Client, dict[str, str]], damage: str
) -> None:
    client, ids = damaged
    reply = client.run("print('mine' in globals())\nfresh = 1", session_id=ids[damage])
    assert (reply["status"], reply["runtime_status"], reply["stdout"]) == ("ok", "new", "False\n"), reply
    assert DAMAGES[damage][1] in reply["state"]["restored"]["error"]
    assert reply["state"]["restored"]["error"] in reply["stderr"]
    assert reply["state"]["captured"]
    lose_kernel(client, ids[damage])
    assert client.run("print(fresh)", session_id=ids[damage])["stdout"] == "1\n"
    assert client.delete(ids[damage]).status_code == 204
    assert client.request("GET", f"/sessions/{ids[damage]}").status_code == 404


@pytest.mark.parametrize("damage", RECORD_DAMAGES)
def test_a_damaged_record_is_refused_and_nothing_is_stored_until_it_is_deleted(
    damaged: tuple[Client, dict[str, str]], damage: str
) -> None:
    client, ids = damaged
    session_id = ids[damage]
    reply = client.run("print('mine' in globals())", session_id=session_id)
    assert (reply["status"], reply["runtime_status"], reply["stdout"]) == ("ok", "new", "False\n"), reply
    assert not reply["state"]["captured"]
    for told in (reply["state"]["error"], reply["state"]["restored"]["error"], reply["stderr"]):
        assert "check" in told
    assert client.request("GET", f"/sessions/{session_id}/history").json()["error"] == "state_refused"
    assert client.delete(session_id).status_code == 204
    reply = client.run("fresh = 1", session_id=session_id)
    assert (reply["runtime_status"], reply["state"]["captured"], reply["state"]["error"]) == ("new", True, None)
    lose_kernel(client, session_id)
    assert client.run("print(fresh)", session_id=session_id)["stdout"] == "1\n"


def test_an_undamaged_session_beside_damaged_ones_goes_on(damaged: tuple[Client, dict[str, str]]) -> None:
    client, ids = damaged
    reply = client.run("print(mine, len(big))", session_id=ids["none"])
    assert (reply["runtime_status"], reply["stdout"]) == ("restored", f"{ids['none']} 100000\n")


def test_damaged_history_does_not_cost_the_state(damaged: tuple[Client, dict[str, str]]) -> None:
    client, ids = damaged
    session_id = ids["bit in the history"]
    (entry,) = client.request("GET", f"/sessions/{session_id}/history").json()["history"]
    assert (entry["number"], entry["code"], entry["restorable"]) == (1, None, True)
    assert client.run("print(mine)", session_id=session_id)["stdout"] == f"{session_id}\n"


# --- the gateway does not load it

WATCH = """
import os, pickle, sys
def note(what):
    with open(os.environ['WATCH_FILE'], 'a') as log:
        log.write(f'{os.getpid()} {what}\\n')
def watched(name, function):
    def call(*args, **kwargs):
        note(name)
        return function(*args, **kwargs)
    return call
for name in ('load', 'loads', 'Unpickler', '_load', '_loads', '_Unpickler'):
    setattr(pickle, name, watched(name, getattr(pickle, name)))
import _pickle
for name in ('load', 'loads', 'Unpickler'):
    setattr(_pickle, name, watched(name, getattr(_pickle, name)))
def audit(event, args):
    if event == 'pickle.find_class' or (event == 'import' and args[0] in ('dill', 'cloudpickle', 'joblib')):
        note(f'{event} {args[:2]}')
sys.addaudithook(audit)
note('watching')
"""


def test_the_gateway_never_unpickles_anything(start_server: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    watch = tmp_path / "watch"
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", "")))),
        "WATCH_FILE": str(watch),
        "STATE_ARCHIVE_AFTER_SECONDS": "1",
        "STATE_ARCHIVE_CHECK_INTERVAL_SECONDS": "1",
    }
    server = start_server(environment).wait_ready()
    client, session_id = server.client(), new_id()
    store = Path(server.environment["STATE_DIR"])
    code = "import numpy as np\nclass A: pass\nx = [A(), lambda: 1, np.ones(100_000)]\nopen('f', 'w').write('f')"
    client.run(code, session_id=session_id)
    lose_kernel(client, session_id)
    assert client.run("print(x[1]())", session_id=session_id)["runtime_status"] == "restored"
    forked = client.request("POST", f"/sessions/{session_id}/fork", json={}).json()["sessions"][0]["session_id"]
    assert client.run("print(x[1]())", session_id=forked)["stdout"] == "1\n"
    assert client.request("POST", f"/sessions/{session_id}/undo").status_code == 200
    assert client.request("GET", f"/sessions/{session_id}/vars").status_code == 200
    assert client.request("GET", f"/sessions/{session_id}/history").status_code == 200
    wait_for(lambda: is_archived(store, session_id), 30)
    assert client.run("print(x[1](), open('f').read())", session_id=session_id)["stdout"] == "1 f\n"
    server.signal(signal.SIGTERM)
    server.wait()
    assert watch.read_text() == f"{server.process.pid} watching\n"
    subprocess.run(  # the watch would have seen it
        [sys.executable, "-c", "import pickle; pickle.loads(pickle.dumps(len))"],
        env={**os.environ, **environment},
        check=True,
    )
    assert "loads" in watch.read_text()
    assert "pickle.find_class" in watch.read_text()


def is_archived(store: Path, session_id: str) -> bool:
    key = Vault.key(OWNER, session_id)
    with closing(sqlite3.connect(f"file:{store / 'archive' / 'state.db'}?mode=ro", uri=True)) as db:
        return db.execute("SELECT 1 FROM blobs WHERE name = ?", (f"heads/{key}",)).fetchone() is not None
