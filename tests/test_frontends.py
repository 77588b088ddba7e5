"""Clients of a kernel: who gets which message, what is kept for whom, and when the kernel has to wait."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kernelgate.auth import Owner
from kernelgate.containers.engine import GONE, Exit
from kernelgate.kernel import frontends as module
from kernelgate.kernel.activity import MAX_OPEN, MAX_OPEN_BYTES, Activity
from kernelgate.kernel.frontends import Connection, Frontends, ReplaySettings
from kernelgate.kernel.hub import Kernel, Listener, Replies
from kernelgate.kernel.journal import Budget
from kernelgate.kernel.messages import Message
from kernelgate.kernel.rates import OUTPUTS
from kernelgate.kernel.wire import ClientMessage
from kernelgate.languages import PYTHON
from kernelgate.sessions.channels import Channels, Parts

MB = 1 << 20
STALL = 0.2
STRANGE: list[object] = [None, 1, [], {"a": 1}, "busy", "x" * 100]


class FakeKernel:
    """What clients notice of a kernel: it says things, it can be paused, it ends."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.activity = Activity()
        self.on_other: Replies | None = None
        self.closed = self.is_ended = False
        self.paused = False
        self.pauses = 0
        self._listeners: list[Listener] = []
        self._read_on = asyncio.Event()
        self._read_on.set()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def pause(self, paused: bool) -> None:
        self.pauses += paused and not self.paused
        self.paused = paused
        if paused:
            self._read_on.clear()
        else:
            self._read_on.set()

    def waits(self) -> bool:
        return self.paused

    async def goes_on(self) -> None:
        """Return when it is not paused any more."""
        await self._read_on.wait()

    def say(self, text: str, parent: str = "", msg_type: str = "stream", **content: object) -> None:
        """Put out a message on iopub."""
        said = message(msg_type, {"name": "stdout", "text": text, **content}, parent)
        self.activity.watch(said)
        for listener in self._listeners:
            listener(said)

    def status(self, state: str, parent: str) -> None:
        self.say("", parent, "status", execution_state=state)

    def run(self, cell: str, outputs: int, size: int = 100_000) -> None:
        """Put out what a cell does, but for the reply, which the server sends."""
        self.status("busy", cell)
        for _ in range(outputs):
            self.say("x" * size, cell)
        self.status("idle", cell)

    def reply(self, parent: str, channel: str = "shell", msg_type: str = "complete_reply") -> None:
        assert self.on_other is not None
        self.on_other(channel, message(msg_type, {"status": "ok"}, parent))


class Client:
    """A socket of a client; it takes messages only when told to."""

    def __init__(self, frontends: Frontends, session_id: str) -> None:
        self.wakes = 0
        self.ended = False
        self._frontends = frontends
        self.connection: Connection = frontends.connect(session_id, self._wake, self._end)

    def take(self, most: int = 1_000_000) -> list[str]:
        """Take messages and return the text, else the type, of each."""
        texts: list[str] = []
        while len(texts) < most:
            item = self.connection.take()
            if item is None:
                break
            header, content = json.loads(item[1][0]), json.loads(item[1][3])
            texts.append(content.get("text") or content.get("execution_state") or header["msg_type"])
        return texts

    def take_by_cell(self) -> dict[str, list[str]]:
        """Take all messages; return the text, else the type, of each by the request that it belongs to."""
        found: dict[str, list[str]] = {}
        while (item := self.connection.take()) is not None:
            header, parent, _metadata, content = map(json.loads, item[1])
            text = content.get("text") or content.get("execution_state") or header["msg_type"]
            found.setdefault(parent.get("msg_id", ""), []).append("x" if text.startswith("x") else text)
        return found

    def acknowledge(self) -> None:
        self.connection.acknowledge(self.connection.cursor)

    def read(self) -> list[str]:
        """Take and acknowledge all there is."""
        texts = self.take()
        self.acknowledge()
        return texts

    def leave(self) -> None:
        self._frontends.disconnect(self.connection)

    def _wake(self) -> None:
        self.wakes += 1

    def _end(self) -> None:
        self.ended = True


def message(msg_type: str, content: object, parent: str = "", parent_type: str = "execute_request") -> Message:
    header = {"msg_id": f"of {msg_type}", "msg_type": msg_type}
    above = {"msg_id": parent, "msg_type": parent_type} if parent else {}
    return Message([b"signature", *(json.dumps(part).encode() for part in (header, above, {}, content))])


class Scene:
    """A kernel and its clients."""

    def __init__(self, seconds: int = 3600, buffer_mb: int = 1) -> None:
        self.budget = Budget(100 * MB)
        self.frontends = Frontends(ReplaySettings(seconds=seconds, buffer_mb=buffer_mb), self.budget)
        self.kernel = FakeKernel()
        self.frontends.attach(cast(Kernel, self.kernel))

    def client(self, session_id: str) -> Client:
        return Client(self.frontends, session_id)

    def is_needed(self) -> bool:
        return self.frontends.is_needed

    @property
    def kept(self) -> int:
        return len(self.frontends.journal)


@asynccontextmanager
async def scene(**settings: int) -> AsyncIterator[Scene]:
    found = Scene(**settings)
    yield found
    found.frontends.close()
    assert found.budget.used == 0


Test = Callable[[], Coroutine[Any, Any, None]]


def on_loop(test: Test) -> Callable[[], None]:
    """Make a plain test of a coroutine."""

    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


# ---- who gets what


@on_loop
async def test_all_clients_get_what_the_kernel_says_in_order() -> None:
    async with scene() as one:
        first, second = one.client("a"), one.client("b")
        for text in "123":
            one.kernel.say(text)
        assert (first.wakes, second.wakes) == (3, 3)
        assert first.take() == second.take() == ["1", "2", "3"]
        assert first.take() == []


@on_loop
async def test_a_reply_goes_to_whoever_asked() -> None:
    async with scene() as one:
        first, second = one.client("a"), one.client("b")
        one.frontends.expect("m1", "a")
        one.kernel.reply("m1")
        assert (first.take(), second.take()) == (["complete_reply"], [])


@on_loop
async def test_a_reply_that_nobody_asked_for_goes_to_nobody() -> None:
    async with scene() as one:
        client = one.client("a")
        one.frontends.expect("m1", "a")
        one.kernel.reply("m2")
        one.kernel.reply("")
        one.kernel.reply("m2", "stdin", "input_request")
        assert client.take() == []
        assert one.kept == 0


@on_loop
async def test_both_sockets_of_a_client_get_everything() -> None:
    async with scene() as one:
        first, second = one.client("a"), one.client("a")
        one.frontends.expect("m1", "a")
        one.kernel.say("1")
        one.kernel.reply("m1")
        assert first.take() == second.take() == ["1", "complete_reply"]


@on_loop
async def test_a_socket_that_reads_takes_nothing_from_one_of_the_same_client_that_does_not_yet() -> None:
    async with scene() as one:
        quick, slow = one.client("a"), one.client("a")
        one.kernel.say("1")
        assert quick.read() == ["1"]
        one.kernel.say("2")
        assert quick.read() == ["2"]
        assert slow.take() == ["1", "2"]


@on_loop
async def test_a_client_does_not_get_what_came_before_it() -> None:
    async with scene() as one:
        first = one.client("a")
        one.kernel.say("1")
        second = one.client("b")
        one.kernel.say("2")
        assert (first.take(), second.take()) == (["1", "2"], ["2"])


@on_loop
async def test_clients_without_a_session_are_clients_of_their_own() -> None:
    async with scene() as one:
        first, second = one.client(""), one.client("")
        assert first.connection.name != second.connection.name
        one.frontends.expect("m1", first.connection.name)
        one.kernel.reply("m1")
        assert (first.take(), second.take()) == (["complete_reply"], [])


@on_loop
async def test_nothing_is_kept_while_there_are_no_clients() -> None:
    async with scene() as one:
        one.kernel.say("1")
        assert one.kept == 0
        assert one.client("a").take() == []


# ---- what only the server may say


@on_loop
async def test_what_belongs_to_the_server_is_not_told() -> None:
    async with scene() as one:
        client = one.client("a")
        for listener in one.kernel._listeners:
            listener(message("stream", {"text": "own"}, "p", parent_type="kernelgate_save_request"))
        assert client.take() == []


@on_loop
async def test_messages_that_no_client_could_read_are_not_told() -> None:
    async with scene() as one:
        client = one.client("a")
        header = b'{"msg_id":"k","msg_type":"stream"}'
        for frames in (
            [b"", b"{}", b"{}", b"{}", b"{}"],
            [b"", b'{"msg_id":1,"msg_type":"stream"}', b"{}", b"{}", b"{}"],
            [b"", b'{"msg_id":"k","msg_type":["stream"]}', b"{}", b"{}", b"{}"],
            [b"", header, b"{}", b"{}", b"nothing"],
            [b"", header, b"{}", b"[]", b"{}"],
            [b"", header, b"{}", b"{}", b'{"text":NaN}'],
        ):
            for listener in one.kernel._listeners:
                listener(Message(frames))
        one.kernel.say("good")
        assert client.take() == ["good"]


@on_loop
async def test_strange_contents_of_what_is_watched_do_no_harm() -> None:
    async with scene() as one:
        client = one.client("a")
        for state in STRANGE:
            one.kernel.say("", "p", "status", execution_state=state)
        for comm_id in STRANGE:
            one.kernel.say("", "p", "comm_open", comm_id=comm_id)
            one.kernel.say("", "p", "comm_close", comm_id=comm_id)
        assert len(client.take()) == 3 * len(STRANGE)
        assert one.frontends.comms == set()


@on_loop
async def test_ids_of_comms_are_bounded_in_number_and_size() -> None:
    async with scene() as one:
        one.client("a")
        for number in range(20):
            one.kernel.say("", "p", "comm_open", comm_id=f"{number}" + "x" * 100_000)
        assert sum(map(len, one.frontends.comms)) < 100_000
        for number in range(module.MAX_COMMS + 10):
            one.kernel.say("", "p", "comm_open", comm_id=f"c{number}")
        assert len(one.frontends.comms) <= module.MAX_COMMS


# ---- clients that go and come


@on_loop
async def test_the_same_client_gets_what_it_has_not_acknowledged() -> None:
    async with scene() as one:
        first = one.client("a")
        one.kernel.say("1")
        first.read()
        one.kernel.say("2")
        first.take()
        one.kernel.say("3")
        first.leave()
        one.kernel.say("4")
        one.frontends.expect("m1", "a")
        one.kernel.reply("m1")
        assert one.client("a").take() == ["2", "3", "4", "complete_reply"]


@on_loop
async def test_a_new_client_takes_over_what_the_last_one_missed() -> None:
    async with scene() as one:
        earlier, last = one.client("a"), one.client("b")
        earlier.leave()
        one.kernel.say("1")
        last.read()
        last.leave()
        one.kernel.say("2")
        one.frontends.expect("m1", "b")
        one.frontends.expect("m2", "a")
        one.kernel.reply("m1")
        one.kernel.reply("m2")
        new = one.client("c")
        assert new.take() == ["2", "complete_reply"]
        one.kernel.reply("m1")
        assert new.take() == ["complete_reply"]


@on_loop
async def test_a_new_client_takes_nothing_from_one_that_is_there() -> None:
    async with scene() as one:
        first = one.client("a")
        one.kernel.say("1")
        one.frontends.expect("m1", "a")
        second = one.client("b")
        one.kernel.reply("m1")
        assert (first.take(), second.take()) == (["1", "complete_reply"], [])


@on_loop
async def test_what_was_taken_over_is_not_taken_over_again() -> None:
    async with scene() as one:
        one.client("a").leave()
        one.kernel.say("1")
        assert one.client("b").take() == ["1"]
        assert one.client("c").take() == []


@on_loop
async def test_clients_are_forgotten_in_the_end() -> None:
    async with scene(seconds=0) as one:
        client = one.client("a")
        one.kernel.say("1")
        assert one.is_needed()
        client.leave()
        assert not one.is_needed()
        assert one.kept == 0
        assert one.client("a").take() == []


@on_loop
async def test_a_client_may_come_back_for_a_while() -> None:
    async with scene(seconds=3600) as one:
        client = one.client("a")
        client.leave()
        assert one.is_needed()
        one.kernel.say("1")
        assert one.kept == 1


@on_loop
async def test_only_so_many_clients_that_left_are_remembered() -> None:
    async with scene() as one:
        clients = [one.client(f"c{number}") for number in range(200)]
        for client in clients:
            client.leave()
        one.kernel.say("1")
        assert len(one.frontends._frontends) <= module.MAX_LEFT
        assert one.client("c199").take() == ["1"]


@on_loop
async def test_a_socket_that_leaves_twice_is_gone() -> None:
    async with scene() as one:
        client = one.client("a")
        client.leave()
        client.leave()
        assert one.frontends.connections == []


@on_loop
async def test_the_end_is_told_to_all_sockets() -> None:
    async with scene() as one:
        sockets = [one.client("a"), one.client("a"), one.client("b")]
        one.frontends.close()
        assert all(socket.ended for socket in sockets)
        assert one.frontends.connections == []
        one.kernel.say("1")
        assert one.kept == 0
        for socket in sockets:
            socket.leave()
            assert socket.take() == []
            socket.acknowledge()


# ---- what is acknowledged


@on_loop
async def test_what_all_clients_have_is_dropped() -> None:
    async with scene() as one:
        first, second = one.client("a"), one.client("b")
        one.kernel.say("1")
        one.kernel.say("2")
        first.read()
        assert one.kept == 2
        second.take(1)
        second.acknowledge()
        assert one.kept == 1
        second.read()
        assert one.kept == 0


@on_loop
async def test_a_client_cannot_acknowledge_what_it_was_not_sent() -> None:
    async with scene() as one:
        client = one.client("a")
        for text in "123":
            one.kernel.say(text)
        client.take(1)
        for number in (2, 3, 4, 10**18):
            client.connection.acknowledge(number)
        client.connection.acknowledge(-1)
        client.connection.acknowledge(0)
        client.leave()
        assert one.client("a").take() == ["1", "2", "3"]


@on_loop
async def test_an_old_acknowledgement_changes_nothing() -> None:
    async with scene() as one:
        client = one.client("a")
        one.kernel.say("1")
        client.read()
        client.connection.acknowledge(0)
        client.leave()
        assert one.client("a").take() == []


# ---- what was too much


@on_loop
async def test_what_was_cut_is_told_once_and_the_rest_follows() -> None:
    async with scene(buffer_mb=1) as one:
        client = one.client("a")
        for _ in range(30):
            one.kernel.say("x" * 100_000, "m1")
        channel, parts = cast(tuple[str, list[bytes]], client.connection.take())
        content = json.loads(parts[3])
        assert (channel, content["name"]) == ("iopub", "stderr")
        assert "20 messages" in content["text"] or "21 messages" in content["text"]
        assert json.loads(parts[1])["msg_id"] == "m1"
        assert [len(text) for text in client.take()] == [100_000] * one.kept


@on_loop
async def test_a_client_that_comes_back_is_told_of_what_was_cut() -> None:
    async with scene(buffer_mb=1) as one:
        client = one.client("a")
        one.kernel.say("1")
        client.read()
        client.leave()
        for _ in range(20):
            one.kernel.say("x" * 100_000)
        again = one.client("a").take()
        assert "dropped" in again[0]
        assert not any("dropped" in text for text in again[1:])


@on_loop
async def test_a_quick_client_misses_nothing_because_of_a_slow_one() -> None:
    async with scene(buffer_mb=1) as one:
        quick, slow = one.client("a"), one.client("b")
        for number in range(200):
            one.kernel.say(f"{number}" + "x" * 50_000)
            assert len(quick.read()) == 1
        assert "dropped" in slow.take()[0]
        assert one.frontends.journal.size <= MB


def reply_to(one: Scene, cell: str, name: str = "a") -> None:
    one.frontends.expect(cell, name)
    one.kernel.reply(cell, msg_type="execute_reply")


def dropped(count: int) -> str:
    return f"[{count} messages were dropped: more came than is kept for a client that does not read]\n"


@on_loop
async def test_a_client_that_comes_back_gets_the_end_of_every_cell() -> None:
    """Three cells run while it is away, and one of them puts out three times what is kept."""
    async with scene(buffer_mb=1) as one:
        one.client("a").leave()
        for cell, outputs in (("m1", 1), ("m2", 30), ("m3", 2)):
            one.kernel.run(cell, outputs)
            reply_to(one, cell)
        client = one.client("a")
        end = ["idle", "execute_reply"]
        found = client.take_by_cell()
        assert found == {
            "m1": ["busy", dropped(1), *end],
            "m2": ["busy", dropped(22), *["x"] * 8, *end],
            "m3": ["busy", *["x"] * 2, *end],
        }
        assert client.take_by_cell() == {}
        client.acknowledge()
        assert one.kept == 0


@on_loop
async def test_what_is_no_output_is_kept() -> None:
    async with scene(buffer_mb=1) as one:
        one.client("a").leave()
        kinds = ["execute_input", "error", "execute_result", "comm_open", "comm_close", "status"]
        for kind in kinds:
            one.kernel.say(kind, "m1", kind)
        one.frontends.publish("stdin", message("input_request", {"text": "?"}, "m1").parts, "a")
        for kind in ("error", "execute_input", "comm_open", *sorted(OUTPUTS - {"execute_result"})):
            for _ in range(20):
                one.kernel.say("x" * 100_000, "m1", kind)
        assert one.client("a").take_by_cell()["m1"][: len(kinds) + 2] == [*kinds, "?", dropped(150)]


@on_loop
async def test_a_flood_of_what_is_no_output_is_bounded() -> None:
    async with scene(buffer_mb=1) as one:
        one.client("a").leave()
        for number in range(5_000):
            one.kernel.status("idle", f"m{number}")
            reply_to(one, f"m{number}")
            one.kernel.say("x" * 100, f"m{number}")
        assert one.frontends.journal.size <= MB
        found = one.client("a").take_by_cell()
        assert found["m4999"] == ["idle", "execute_reply", "x"]


@on_loop
async def test_each_gap_is_told_where_it_is_and_what_was_read_is_not_told_again() -> None:
    async with scene(buffer_mb=1) as one:
        first = one.client("a")
        one.kernel.run("m1", 2, 10)
        first.take(2)
        first.acknowledge()
        first.leave()
        for cell in ("m2", "m3"):
            one.kernel.run(cell, 5, 60_000)
        one.kernel.run("m4", 20, 60_000)
        again = one.client("a")
        assert again.take(4) == [dropped(1), "idle", "busy", dropped(5)]
        again.acknowledge()
        again.leave()
        last = one.client("a")
        assert last.take_by_cell() == {
            "m2": ["idle"],
            "m3": ["busy", dropped(5), "idle"],
            "m4": ["busy", dropped(3), *["x"] * 17, "idle"],
        }
        last.acknowledge()
        assert one.kept == 0


@on_loop
async def test_what_is_missing_at_the_end_is_told_with_what_comes_next() -> None:
    """Other kernels take all the room. The client has nothing to read, so the kernel does not wait for it."""
    async with scene(buffer_mb=1) as one:
        client = one.client("a")
        one.kernel.status("busy", "m1")
        client.read()
        for _ in range(20):
            one.kernel.say("x" * 100_000, "m1")
            one.frontends.journal.cut()
            assert client.take() == []
        one.kernel.status("idle", "m1")
        assert client.take_by_cell() == {"m1": [dropped(20), "idle"]}
        assert one.kernel.pauses == 0


# ---- when the kernel has to wait


@on_loop
async def test_the_kernel_waits_while_nobody_keeps_up_and_goes_on_when_one_does() -> None:
    async with scene(buffer_mb=1) as one:
        first, second = one.client("a"), one.client("b")
        while not one.kernel.waits():
            one.kernel.say("x" * 50_000)
            assert one.frontends.journal.size < MB
        first.read()
        assert not one.kernel.waits()
        assert one.frontends.journal.first == 0
        assert len(second.take()) == one.frontends.journal.next


@on_loop
async def test_the_kernel_does_not_wait_while_one_client_keeps_up() -> None:
    async with scene(buffer_mb=1) as one:
        quick, _slow = one.client("a"), one.client("b")
        for _ in range(100):
            one.kernel.say("x" * 50_000)
            quick.read()
        assert one.kernel.pauses == 0


@on_loop
async def test_the_kernel_does_not_wait_for_clients_that_have_gone() -> None:
    async with scene(buffer_mb=1) as one:
        one.client("a").leave()
        for _ in range(100):
            one.kernel.say("x" * 50_000)
        assert one.kernel.pauses == 0
        assert one.frontends.journal.size <= MB


@on_loop
async def test_a_kernel_that_waits_for_the_only_client_goes_on_when_it_leaves() -> None:
    async with scene(buffer_mb=1) as one:
        client = one.client("a")
        while not one.kernel.waits():
            one.kernel.say("x" * 50_000)
        client.leave()
        assert not one.kernel.waits()


def test_nobody_waits_for_a_client_that_has_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes nothing at all: the kernel goes on after a while, and is not held again."""
    monkeypatch.setattr(module, "STALL_SECONDS", STALL)

    async def run() -> None:
        async with scene(buffer_mb=1) as one:
            one.client("a")
            while not one.kernel.waits():
                one.kernel.say("x" * 50_000)
            async with asyncio.timeout(10):
                await one.kernel.goes_on()
            before = one.kernel.pauses
            for _ in range(50):
                one.kernel.say("x" * 50_000)
            assert one.kernel.pauses == before
            assert one.frontends.journal.size <= MB

    asyncio.run(run())


# ---- what the kernel does


def busy_with(one: Scene) -> str:
    header = one.frontends.busy_with
    return str(json.loads(header)["msg_id"]) if header else ""


@on_loop
async def test_the_kernel_is_busy_with_what_it_began_last_and_has_not_ended() -> None:
    """A cell, and on the control channel and in a subshell two requests that come and go meanwhile."""
    async with scene() as one:
        seen = []
        steps = ["+cell", "+control", "-control", "+subshell", "+late", "-subshell", "-late", "-cell", "-cell"]
        for step in steps:
            one.kernel.status("busy" if step[0] == "+" else "idle", step[1:])
            seen.append(busy_with(one))
        assert seen == ["cell", "control", "cell", "subshell", "late", "late", "cell", "", ""]


@on_loop
async def test_a_status_that_belongs_to_nothing_changes_nothing() -> None:
    async with scene() as one:
        one.kernel.status("busy", "")
        assert busy_with(one) == ""
        one.kernel.status("busy", "cell")
        for state in ("idle", "starting", "busy"):
            one.kernel.status(state, "")
        assert busy_with(one) == "cell"


@on_loop
async def test_the_server_may_say_in_the_kernels_place_that_it_is_idle() -> None:
    async with scene() as one:
        one.kernel.status("busy", "cell")
        one.frontends.status("idle")
        one.frontends.status("busy", b'{"msg_id":"info"}')
        one.frontends.status("idle", b'{"msg_id":"info"}')
        assert busy_with(one) == "cell"
        one.frontends.status("idle", b'{"session":"s","msg_id":"cell"}')
        assert busy_with(one) == ""


@on_loop
async def test_a_client_that_asks_for_the_kernel_is_told_that_it_is_busy_only_if_it_is() -> None:
    """The session is in use all the time: at first by the server, say for an undo, then by a cell as well."""
    async with scene() as one:
        session = SimpleNamespace(is_running=True, kernel=None)
        sessions = SimpleNamespace(find=lambda _owner, _session_id: session)
        parts = SimpleNamespace(info={PYTHON.id: {"status": "ok"}}, sessions=sessions)
        channels = Channels(Owner("ann"), "s", PYTHON, one.frontends, cast(Parts, parts))
        client = one.client("a")
        answer = ["busy", "kernel_info_reply", "idle"]

        async def ask(msg_id: str) -> dict[str, list[str]]:
            header = {"msg_id": msg_id, "msg_type": "kernel_info_request"}
            await channels.take(client.connection, ClientMessage("shell", header, {}))
            return client.take_by_cell()

        assert await ask("i1") == {"i1": answer}
        one.kernel.status("busy", "cell")
        assert await ask("i2") == {"cell": ["busy", "busy"], "i2": answer}
        one.kernel.status("idle", "cell")
        assert await ask("i3") == {"cell": ["idle"], "i3": answer}


@on_loop
async def test_another_kernel_does_nothing_of_what_the_last_one_did() -> None:
    async with scene() as one:
        one.kernel.status("busy", "cell")
        second = FakeKernel()
        one.frontends.attach(cast(Kernel, second))
        assert busy_with(one) == ""
        second.status("busy", "cell")
        second.ended.set_result(GONE)
        await asyncio.sleep(0)
        assert busy_with(one) == ""


@on_loop
async def test_the_kernel_may_be_busy_before_its_first_client_comes() -> None:
    """With a cell, and with what only the server asks of it, which clients are told nothing of."""
    async with scene() as one:
        second = FakeKernel()
        second.status("busy", "cell")
        second.activity.watch(message("status", {"execution_state": "busy"}, "own", "kernelgate_vars_request"))
        one.frontends.attach(cast(Kernel, second))
        assert busy_with(one) == "cell"
        second.status("idle", "cell")
        assert busy_with(one) == ""


@on_loop
async def test_what_a_kernel_says_that_it_does_is_bounded() -> None:
    async with scene() as one:
        for number in range(MAX_OPEN + 50):
            one.kernel.status("busy", f"m{number}")
            one.kernel.status("busy", f"{number}" + "x" * MAX_OPEN_BYTES)
        assert busy_with(one) == f"m{MAX_OPEN + 49}"
        assert len(one.kernel.activity) == MAX_OPEN


# ---- the kernel's end


@on_loop
async def test_a_death_is_told_and_an_end_on_purpose_is_not() -> None:
    async with scene() as one:
        deaths: list[None] = []
        one.frontends.on_death = lambda: deaths.append(None)
        one.kernel.ended.set_result(GONE)
        await asyncio.sleep(0)
        assert len(deaths) == 1
        second = FakeKernel()
        one.frontends.attach(cast(Kernel, second))
        second.closed = True
        second.ended.set_result(GONE)
        await asyncio.sleep(0)
        assert len(deaths) == 1


@pytest.mark.parametrize("how", ["ends", "replaced"])
def test_what_a_kernel_has_not_done_is_lost_with_it_once(how: str) -> None:
    asyncio.run(lose(how))


async def lose(how: str) -> None:
    async with scene() as one:
        lost: list[str] = []
        for msg_id in ("done", "never sent", "open"):
            sent = ClientMessage("shell", {"msg_id": msg_id, "msg_type": "complete_request"}, {})
            await one.frontends.hand(sent, partial(lost.append, msg_id))
        one.kernel.status("idle", "done")
        one.frontends.take_back("never sent")
        assert one.frontends.is_busy
        if how == "ends":
            one.kernel.ended.set_result(GONE)
            await asyncio.sleep(0)
        one.frontends.attach(cast(Kernel, FakeKernel()))
        assert lost == ["open"]
        assert not one.frontends.is_busy


@on_loop
async def test_the_end_of_a_kernel_that_was_replaced_is_nothing() -> None:
    async with scene() as one:
        deaths: list[None] = []
        one.frontends.on_death = lambda: deaths.append(None)
        client, second = one.client("a"), FakeKernel()
        one.frontends.attach(cast(Kernel, second))
        one.kernel.ended.set_result(GONE)
        await asyncio.sleep(0)
        second.say("of the second")
        assert (deaths, client.take()) == ([], ["of the second"])


@on_loop
async def test_a_kernel_that_is_attached_twice_is_heard_once() -> None:
    async with scene() as one:
        client = one.client("a")
        one.frontends.attach(cast(Kernel, one.kernel))
        one.kernel.say("1")
        assert client.take() == ["1"]


@on_loop
async def test_a_restart_is_told_to_all_clients() -> None:
    async with scene() as one:
        clients = [one.client("a"), one.client("b")]
        one.frontends.restarted(cast(Kernel, FakeKernel()))
        for client in clients:
            assert client.take() == ["shutdown_reply", "starting", "idle"]
