"""The Jupyter doors under attack: by strangers, by clients with a key, by the code in a kernel."""

from __future__ import annotations

import base64
import contextlib
import json
import resource
import secrets
import signal
import socket
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server import KEY, OTHER_KEY, PROMPT, Client, Json, Server, Servers, in_background, new_id, wait_for
from tests.websocket import BINARY, TEXT, KernelSocket, Refused, encode_v1, end_kernel, start_kernel

LONG = 60.0
MOST_CONNECTIONS = 2_000
"""Half-open connections. 10,000 are no other case, and take a slow machine a minute."""

CONTINUATION = 0
MB = 1 << 20
OWN_ENV = "KERNEL_MINE"
LIMITS = {
    "MAX_KERNELS": "3",
    "WEBSOCKET_PING_SECONDS": "0.5",
    "WEBSOCKET_TIMEOUT_SECONDS": "2",
    "REPLAY_BUFFER_MB": "1",
    "ALLOWED_ENVS": "KERNEL_*,MY_?",
    "ENABLE_CORS": "true",
    "CORS_ORIGINS": "https://lab.example.com,https://other.example.com:8443",
    "CONTAINER_POOL_PY_MIN": "1",
    "MAX_BUSY_SECONDS": "8",
    "API_DEBUG": "true",
}
CULLED = {
    "CULL_IDLE_TIMEOUT": "2",
    "CULL_CONNECTED": "true",
    "CULL_BUSY": "true",
    "CONTAINER_POOL_PY_MIN": "1",
}


@pytest.fixture(scope="module")
def server(servers: Servers) -> Iterator[Server]:
    """A server with the usual settings. Whatever is done to it, no failure of its own may be in its log."""
    yield from run_server(servers, {"CONTAINER_POOL_PY_MIN": "2", "MAX_EXECUTION_TIME": "20"})


@pytest.fixture(scope="module")
def limited(servers: Servers) -> Iterator[Server]:
    """A server with small limits."""
    yield from run_server(servers, LIMITS)


def run_server(servers: Servers, environment: Mapping[str, str]) -> Iterator[Server]:
    server = servers.start(environment)
    try:
        yield server.wait_ready()
        check_log(server)
    finally:
        servers.stop(server)


def check_log(server: Server) -> None:
    """Check that the log tells of no failure and no key."""
    said = server.stdout + server.stderr
    for mark in (
        "Traceback",
        "Task was destroyed",
        "never retrieved",
        "never awaited",
        "Exception ignored",
        " failed",
    ):
        assert mark not in said, said[max(0, said.index(mark) - 2000) : said.index(mark) + 4000]
    assert KEY not in said
    assert OTHER_KEY not in said


@pytest.fixture
def client(server: Server) -> Client:
    return server.client()


@pytest.fixture(scope="module")
def kernel_id(server: Server) -> Iterator[str]:
    """A kernel that most tests share."""
    kernel_id = start_kernel(server.client())
    yield kernel_id
    end_kernel(server.client(), kernel_id)


@pytest.fixture
def ws(client: Client, kernel_id: str) -> Iterator[KernelSocket]:
    """A client of the shared kernel."""
    with KernelSocket(client, kernel_id) as ws:
        yield ws


@pytest.fixture
def own_kernel(client: Client) -> Iterator[str]:
    """A kernel that only this test uses."""
    kernel_id = start_kernel(client)
    yield kernel_id
    end_kernel(client, kernel_id)


def memory(server: Server, what: str = "VmRSS") -> float:
    """Return the MB of memory that the server has; with ``VmHWM`` the most it ever had since `forget_peak`."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) / 1024


def forget_peak(server: Server) -> float:
    """Have the peak counted anew; returns the MB that the server has now."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return memory(server)


def check_prompt(client: Client) -> None:
    """Check that the server answers others in time."""
    started = time.monotonic()
    assert client.health()["status"] == "healthy"
    assert client.request("GET", "/api/kernels").status_code == 200
    assert time.monotonic() - started < PROMPT


def check_works(client: Client, kernel_id: str) -> None:
    """Check that a kernel runs cells and saves them."""
    mark = secrets.token_hex(4)
    with KernelSocket(client, kernel_id) as ws:
        cell = ws.run(f"print('{mark}')", timeout=LONG)
        assert (cell.stdout, cell.status) == (mark + "\n", "ok")


def header(msg_type: str = "execute_request", **more: object) -> Json:
    own = {"msg_id": secrets.token_hex(16), "msg_type": msg_type, "session": "s", "username": "", "version": "5.4"}
    return {**own, "date": "2026-01-01T00:00:00Z", **more}


def send_raw(ws: KernelSocket, data: bytes) -> None:
    """Send bytes as they are."""
    with contextlib.suppress(OSError):
        ws._socket.sendall(data)


# ---- strangers


FOREIGN: list[tuple[str, str, Json | None]] = [
    ("GET", "/api/kernels/{}", None),
    ("DELETE", "/api/kernels/{}", None),
    ("POST", "/api/kernels/{}/interrupt", None),
    ("POST", "/api/kernels/{}/restart", None),
    ("GET", "/api/sessions/{}", None),
    ("PATCH", "/api/sessions/{}", {"name": "mine"}),
    ("PATCH", "/api/sessions/{}", {"kernel": {"name": "python3"}}),
    ("DELETE", "/api/sessions/{}", None),
    ("POST", "/api/sessions", {"path": "x", "name": "", "type": "notebook", "kernel": {"id": "{}"}}),
    ("POST", "/api/kernels", {"name": "session-{}"}),
    ("POST", "/api/kernels", {"env": {"KERNEL_SESSION_ID": "{}"}}),
    ("GET", "/api/kernelspecs/session-{}", None),
    ("GET", "/sessions/{}", None),
    ("POST", "/sessions/{}/interrupt", None),
    ("POST", "/sessions/{}/input", {"value": "x"}),
    ("GET", "/sessions/{}/notebook", None),
    ("DELETE", "/sessions/{}", None),
]


@pytest.mark.parametrize("who", ["another key", "another user", "the same key without a user"])
def test_what_is_anothers_is_not_there(server: Server, who: str) -> None:
    """Every route that takes an id, and the WebSocket: 404 as for an id that is none, and nothing happens."""
    owner = server.client().as_user("ada")
    kernel_id = start_kernel(owner)
    stranger = {
        "another key": server.client(OTHER_KEY).as_user("ada"),
        "another user": server.client().as_user("bob"),
        "the same key without a user": server.client(),
    }[who]
    for given in (kernel_id, str(uuid.uuid4())):
        for method, path, body in FOREIGN:
            text = json.dumps(body).replace("{}", given) if body is not None else None
            answer = stranger.request(method, path.replace("{}", given), data=text)
            assert answer.status_code == 404, (method, path, answer.text)
        with pytest.raises(Refused) as refused:
            KernelSocket(stranger, given)
        assert refused.value.status == 404
    for path in ("/api/kernels", "/api/sessions"):
        assert stranger.request("GET", path).json() == [
            each for each in stranger.request("GET", path).json() if kernel_id not in json.dumps(each)
        ]
    assert kernel_id not in stranger.request("GET", "/api/kernelspecs").text
    check_works(owner, kernel_id)
    end_kernel(owner, kernel_id)


@pytest.mark.parametrize(
    "path_id",
    ["%2e%2e", "%00", "a%2fb", "x" * 5000, "%ff%fe", "%d9%a3", "*", "a;b", "00000000-0000-0000-0000-000000000000"],
)
def test_ids_that_are_none_find_nothing(client: Client, path_id: str) -> None:
    for method, rest in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/interrupt"),
        ("POST", "/restart"),
        ("GET", "/channels"),
    ):
        answer = client.request(method, f"/api/kernels/{path_id}{rest}")
        assert answer.status_code in (400, 404, 405), (method, rest, answer.text)
        assert "Traceback" not in answer.text


WRONG_KEYS: dict[str, dict[str, str]] = {
    "nothing": {},
    "a wrong token": {"Authorization": "token nothing-like-it"},
    "a wrong bearer": {"Authorization": "Bearer nothing-like-it"},
    "a wrong key": {"x-api-key": "nothing-like-it"},
    "an empty token": {"Authorization": "token "},
    "the key without a scheme": {"Authorization": KEY},
    "the key as Basic": {"Authorization": "Basic " + base64.b64encode(f"x:{KEY}".encode()).decode()},
    "the key and more": {"Authorization": f"token {KEY}x"},
    "a part of the key": {"Authorization": f"token {KEY[:-1]}"},
    "a cookie": {"Cookie": f"token={KEY}; _xsrf={KEY}"},
}
ROUTES = ["/api/kernels", "/api/sessions", "/api/kernelspecs", "/api/status", "/api/me", "/api/kernels/x"]


@pytest.mark.parametrize("case", WRONG_KEYS)
def test_without_the_key_there_is_401(server: Server, kernel_id: str, case: str) -> None:
    for path in (*ROUTES, f"/api/kernels/{kernel_id}"):
        answer = requests.get(server.url + path, headers=WRONG_KEYS[case], timeout=10)
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized"), path
    with pytest.raises(Refused) as refused:
        KernelSocket(server.client(), kernel_id, headers=WRONG_KEYS[case])
    assert refused.value.status == 401
    wrong = {"token": "nothing-like-it"}
    assert requests.get(f"{server.url}/api/kernels", params=wrong, timeout=10).status_code == 401
    with pytest.raises(Refused) as refused:
        KernelSocket(server.client(), kernel_id, headers={}, query=wrong)
    assert refused.value.status == 401


def test_the_key_in_the_address_lets_in_and_is_never_logged(limited: Server) -> None:
    """Requests of all kinds that go wrong: the log, which tells of them in every detail, has no key."""
    server = limited
    kernel_id = start_kernel(server.client())
    with KernelSocket(server.client(), kernel_id, headers={}, query={"token": KEY}) as ws:
        assert ws.run("print(1)").stdout == "1\n"
    assert requests.get(f"{server.url}/api/kernels?token={KEY}", timeout=10).status_code == 200
    for query in (
        f"token={KEY}",
        f"token={KEY}&user_id=%ff",
        f"user_id=%ff&token={KEY}",
        f"%74oken={KEY}&user_id=%ff",
    ):
        for method, path in (
            ("GET", "/api/kernels/nothing"),
            ("GET", "/api/kernels/nothing/channels"),
            ("GET", f"/api/kernels/{kernel_id}/channels"),
            ("POST", "/api/kernels/nothing"),
            ("BREW", "/api/kernels"),
            ("GET", "/nothing"),
            ("GET", "/api/kernels/%ff"),
        ):
            answer = requests.request(method, f"{server.url}{path}?{query}", timeout=10)
            assert 400 <= answer.status_code < 500, (method, path, query)
            assert KEY not in answer.text
    wait_for(lambda: "/api/kernels/nothing" in server.stderr)
    assert KEY not in server.stdout + server.stderr
    end_kernel(server.client(), kernel_id)


ORIGINS = {
    "another site": "https://evil.example.com",
    "null": "null",
    "the same host, another port": "http://127.0.0.1:1",
    "the same host without its port": "http://127.0.0.1",
    "another name of the host": "http://localhost:{port}",
    "a subdomain": "http://127.0.0.1:{port}.evil.example.com",
    "the host as a user": "http://127.0.0.1:{port}@evil.example.com",
    "the host in the path": "http://evil.example.com/127.0.0.1:{port}",
    "the host in the query": "http://evil.example.com?127.0.0.1:{port}",
    "the host in the fragment": "http://evil.example.com#127.0.0.1:{port}",
    "a listed one as a user": "https://lab.example.com@evil.example.com",
    "a listed one as a subdomain": "https://lab.example.com.evil.example.com",
    "a subdomain of a listed one": "https://x.lab.example.com",
    "a listed one over http": "http://lab.example.com",
    "a listed one with another port": "https://other.example.com",
    "no URL": "127.0.0.1:{port}",
    "brackets": "http://[",
    "brackets around the host": "http://[127.0.0.1]:{port}",
    "two": "http://127.0.0.1:{port}, https://evil.example.com",
    "a file": "file://",
    "a star": "*",
}


@pytest.mark.parametrize("case", ORIGINS)
def test_a_page_of_another_site_gets_no_websocket(
    server: Server, limited: Server, kernel_id: str, case: str
) -> None:
    """Although it has the key: 403, with CORS_ORIGINS and without."""
    for one, kernel in ((server, kernel_id), (limited, new_id())):
        origin = ORIGINS[case].format(port=one.port)
        for name in ("Origin", "Sec-WebSocket-Origin"):
            with pytest.raises(Refused) as refused:
                KernelSocket(one.client(), kernel, headers={"Authorization": f"token {KEY}", name: origin})
            assert (refused.value.status, json.loads(refused.value.body)["error"]) == (403, "bad_origin"), origin


def test_a_page_of_the_server_or_of_a_listed_site_gets_one(
    server: Server, limited: Server, kernel_id: str
) -> None:
    listed = start_kernel(limited.client())
    for one, kernel, origins in (
        (server, kernel_id, [f"http://127.0.0.1:{server.port}", f"HTTP://127.0.0.1:{server.port}"]),
        (limited, listed, ["https://lab.example.com", "https://other.example.com:8443"]),
    ):
        for origin in origins:
            with KernelSocket(
                one.client(), kernel, headers={"Authorization": f"token {KEY}", "Origin": origin}
            ) as ws:
                ws.ask("kernel_info_request")
    end_kernel(limited.client(), listed)


# ---- frames and connections


def frame_head(opcode: int, length: int, fin: bool = True) -> bytes:
    return bytes([(0x80 if fin else 0) | opcode, 0x80 | 127]) + struct.pack("!Q", length) + b"\0\0\0\0"


def test_a_frame_of_a_gigabyte_ends_the_connection_before_it_comes(
    server: Server, client: Client, kernel_id: str, ws: KernelSocket
) -> None:
    """Announced at once, announced as 2^62, or in fragments: closed, and no memory is taken for it."""
    before = forget_peak(server)
    for length in (1 << 30, 33 * MB, 1 << 62):
        with KernelSocket(client, kernel_id) as hostile:
            send_raw(hostile, frame_head(BINARY, length) + b"x" * 1000)
            assert hostile.wait_closed() in (1009, 1006)
    with KernelSocket(client, kernel_id) as hostile:
        send_raw(hostile, frame_head(BINARY, 16 * MB, fin=False) + bytes(16 * MB))
        for _ in range(4):
            send_raw(hostile, frame_head(CONTINUATION, 15 * MB, fin=False) + bytes(15 * MB))
        assert hostile.wait_closed() in (1009, 1006)
    assert memory(server, "VmHWM") - before < 150
    assert ws.run("print(1)").stdout == "1\n"


BROKEN_FRAMES = {
    "reserved bits": b"\xf2\x80\0\0\0\0",
    "an unknown opcode": b"\x83\x80\0\0\0\0",
    "an unknown control opcode": b"\x8b\x80\0\0\0\0",
    "a control frame that is too long": b"\x89\xfe\x01\x00\0\0\0\0" + b"x" * 256,
    "a control frame in fragments": b"\x09\x80\0\0\0\0",
    "a continuation of nothing": b"\x80\x81\0\0\0\0x",
    "a new message within one": b"\x02\x81\0\0\0\0x\x82\x81\0\0\0\0x",
    "no UTF-8": b"\x81\x82\0\0\0\0\xff\xfe",
    "a close with one byte": b"\x88\x81\0\0\0\0\x03",
    "a close that is no UTF-8": b"\x88\x84\0\0\0\0\x03\xe8\xff\xfe",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("case", BROKEN_FRAMES)
def test_a_frame_that_is_none_ends_its_connection_only(
    client: Client, kernel_id: str, ws: KernelSocket, case: str
) -> None:
    with KernelSocket(client, kernel_id) as hostile:
        send_raw(hostile, BROKEN_FRAMES[case])
        hostile.wait_closed()
    assert ws.ask("kernel_info_request").content["status"] == "ok"
    assert ws.closed is None


def v1(channel: str = "shell", msg_type: str = "execute_request", content: object = None, **more: object) -> bytes:
    parts: Any = [header(msg_type, **more), {}, {}, {} if content is None else content]
    return encode_v1(channel, parts)


BAD_MESSAGES: dict[str, tuple[bool, int, bytes]] = {
    "2^60 offsets": (True, BINARY, struct.pack("<Q", 1 << 60) + bytes(100)),
    "no offsets": (True, BINARY, bytes(8)),
    "nothing": (True, BINARY, b""),
    "text for v1": (True, TEXT, b"{}"),
    "offsets beyond the end": (True, BINARY, struct.pack("<7Q", 6, 56, 60, 1 << 40, 1 << 41, 1 << 42, 1 << 43)),
    "iopub": (True, BINARY, v1("iopub")),
    "no channel": (True, BINARY, v1("")),
    "an id of a number": (True, BINARY, v1(msg_id=1)),
    "a type of a list": (True, BINARY, v1(msg_type_="x").replace(b'"execute_request"', b'["execute_request"]')),
    "a content of a list": (True, BINARY, v1(content=[1])),
    "a message of the server's": (True, BINARY, v1("shell", "kernelgate_save_request")),
    "a message of the server's on control": (True, BINARY, v1("control", "kernelgate_files_request")),
    "a message of the server's for a subshell": (True, BINARY, v1("shell", "kernelgate_x", subshell_id="1")),
    "a type that is too long to tell": (True, BINARY, v1("shell", "kernelgate_" + "é" * 100)),
    "a type of surrogates": (True, BINARY, v1("shell", "kernelgate_\ud800")),
    "a negative count": (False, BINARY, struct.pack("!i", -1) + bytes(50)),
    "no JSON": (False, TEXT, b"nothing"),
    "NaN": (
        False,
        TEXT,
        b'{"header": {"msg_id": "1", "msg_type": "x"}, "channel": "shell", "content": {"a": NaN}}',
    ),
    "deep JSON": (False, TEXT, b'{"a":' * 100_000),
    "legacy iopub": (False, TEXT, json.dumps({"header": header(), "channel": "iopub"}).encode()),
    "a type of surrogates, legacy": (
        False,
        TEXT,
        json.dumps({"header": header("kernelgate_\udcff" + "\u20ac" * 90), "channel": "shell"}).encode(),
    ),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_a_malformed_message_ends_its_connection_with_1008_and_nothing_else(
    client: Client, kernel_id: str, ws: KernelSocket, case: str
) -> None:
    protocol, opcode, payload = BAD_MESSAGES[case]
    with KernelSocket(client, kernel_id, v1=protocol) as hostile:
        hostile.send_frame(opcode, payload)
        assert hostile.wait_closed() == 1008
    assert ws.run("print(1)").stdout == "1\n"
    assert ws.closed is None


def test_half_open_connections_hold_up_nobody(server: Server, client: Client, ws: KernelSocket) -> None:
    """Thousands that say nothing, half a request, half a handshake."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    beginnings = (
        b"",
        b"GET /api/kernels HTTP/1.1\r\nX-Slow: ",
        f"GET /api/kernels/{ws.kernel_id}/channels HTTP/1.1\r\nUpgrade: websocket\r\n".encode(),
        b"POST /api/kernels HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
    )
    before = memory(server)
    with contextlib.ExitStack() as connections:
        for number in range(min(MOST_CONNECTIONS, hard - 2000)):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            connection.sendall(beginnings[number % len(beginnings)])
        check_prompt(client)
        assert ws.run("print(1)").stdout == "1\n"
        assert memory(server) - before < 100
    check_prompt(client)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "path", ["/api", "/health", "/api/kernels", "/api/kernels/x/channels", "/sessions", "/nothing"]
)
def test_a_large_body_that_no_route_wants_takes_no_memory(server: Server, client: Client, path: str) -> None:
    """200 MB with a GET, without a key."""
    before = forget_peak(server)
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {200 * MB}\r\n\r\n"
        connection.sendall(head.encode())
        with contextlib.suppress(OSError):
            for _ in range(200):
                connection.sendall(bytes(MB))
            assert connection.recv(1000)
    assert memory(server, "VmHWM") - before < 60
    check_prompt(client)


# ---- clients that do not read, or send too much


PRINT_200_MB = "for _ in range(200): print('x' * 1_000_000)"


def test_a_client_that_never_reads_harms_nobody(server: Server, client: Client, own_kernel: str) -> None:
    """Its cell prints 200 MB: the other client of the kernel gets all, others are served, memory is bounded."""
    before = forget_peak(server)
    with KernelSocket(client, own_kernel) as stalled, KernelSocket(client, own_kernel) as reader:
        stalled.pause()
        msg_id = stalled.execute(PRINT_200_MB)
        reader.wait(lambda one: one.parent_id == msg_id and one.type == "stream", LONG)
        check_prompt(client)
        reader.wait(lambda one: one.parent_id == msg_id and one.state == "idle", LONG)
        printed = sum(len(one.content["text"]) for one in reader.seen(msg_id).of("stream"))
        assert printed == 200 * 1_000_001
        reader.messages.clear()
        assert client.printed("print('by exec')", session_id=own_kernel) == "by exec\n"
        assert memory(server, "VmHWM") - before < 300
        stalled.cut()


def test_a_cell_whose_only_client_never_reads_comes_to_its_end(
    server: Server, client: Client, own_kernel: str
) -> None:
    """Nobody reads: the cell ends all the same, and the session goes on."""
    before = forget_peak(server)
    with KernelSocket(client, own_kernel) as stalled:
        stalled.pause()
        stalled.execute(PRINT_200_MB + "\nended = True")
        time.sleep(0.5)
        assert client.printed("print(ended)", session_id=own_kernel) == "True\n"
        assert memory(server, "VmHWM") - before < 300
        stalled.cut()


def flood(ws: KernelSocket, frames: Callable[[], bytes], count: int) -> threading.Event:
    """Send frames on a thread of its own, without reading, until the connection ends; tells when all are sent."""
    sent = threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError):
            for _ in range(count):
                ws.send_frame(BINARY, frames())
            sent.set()

    ws.pause()
    threading.Thread(target=run, daemon=True).start()
    return sent


FLOODS: dict[str, Callable[[], bytes]] = {
    "kernel_info": lambda: v1("shell", "kernel_info_request"),
    "executions": lambda: v1("shell", "execute_request", {"code": "pass", "silent": False}),
    "executions of 1 MB": lambda: v1("shell", "execute_request", {"code": "#" * MB}),
    "completions": lambda: v1("shell", "complete_request", {"code": "pri", "cursor_pos": 3}),
    "interrupts": lambda: v1("control", "interrupt_request"),
    "debugging": lambda: v1("control", "debug_request", {"command": "debugInfo"}),
    "inputs": lambda: v1("stdin", "input_reply", {"value": "x" * 10_000}),
    "what no kernel knows": lambda: v1("control", "nonsense_request", {"x": "x" * 10_000}),
}


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood_of_requests_harms_only_who_sent_it(
    server: Server, client: Client, own_kernel: str, ws: KernelSocket, what: str
) -> None:
    """100,000 requests whose answers nobody reads: memory is bounded, others are served, the kernel can go."""
    before = forget_peak(server)
    with KernelSocket(client, own_kernel) as hostile:
        sent = flood(hostile, FLOODS[what], 100_000)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and not sent.is_set():
            check_prompt(client)
            assert ws.run("print(1)").stdout == "1\n"
        assert memory(server, "VmHWM") - before < 300
        assert client.request("DELETE", f"/api/kernels/{own_kernel}").status_code == 204
        hostile.cut()
    check_prompt(client)


def test_what_waits_for_a_kernel_that_takes_nothing_is_bounded(
    server: Server, client: Client, own_kernel: str, ws: KernelSocket
) -> None:
    """A kernel that has stopped itself, and 600 MB of requests for it on shell and control."""
    with KernelSocket(client, own_kernel) as hostile:
        hostile.execute("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
        time.sleep(0.5)
        before = forget_peak(server)
        content = {"code": "x" * (4 * MB), "cursor_pos": 1}
        floods = []
        for channel, msg_type in (("shell", "complete_request"), ("control", "debug_request")):
            other = KernelSocket(client, own_kernel)
            flood(other, lambda c=channel, t=msg_type: v1(c, t, content), 75)  # type: ignore[misc]
            floods.append(other)
        time.sleep(2)
        check_prompt(client)
        assert ws.run("print(1)").stdout == "1\n"
        assert memory(server, "VmHWM") - before < 250
        for other in floods:
            other.cut()
        assert client.request("POST", f"/api/kernels/{own_kernel}/restart").status_code == 200
    check_works(client, own_kernel)


def test_messages_that_a_kernel_never_answers_do_not_use_it_up(client: Client, own_kernel: str) -> None:
    """1,200 for a subshell that there is not."""
    with KernelSocket(client, own_kernel) as ws:
        for _ in range(1200):
            ws.send("complete_request", {"code": "pri", "cursor_pos": 3}, subshell_id="nothing")
        assert ws.run("print(1)", timeout=LONG).stdout == "1\n"
        assert ws.ask("complete_request", {"code": "pri", "cursor_pos": 3}).content["matches"]


def test_a_client_that_answers_no_ping_is_ended(limited: Server) -> None:
    client = limited.client()
    kernel_id = start_kernel(client)
    with KernelSocket(client, kernel_id) as silent, KernelSocket(client, kernel_id) as alive:
        silent.pause()
        wait_for(lambda: client.request("GET", f"/api/kernels/{kernel_id}").json()["connections"] == 1)
        silent.resume()
        assert silent.wait_closed() in (1008, 1006)
        assert alive.closed is None
    end_kernel(client, kernel_id)


def test_a_client_whose_requests_wait_is_not_taken_for_dead(limited: Server) -> None:
    """More requests than the queue takes, behind a cell that runs longer than a ping may take."""
    client = limited.client()
    kernel_id = start_kernel(client)
    with KernelSocket(client, kernel_id) as ws:
        first = ws.execute("import time; time.sleep(5); 1 / 0")
        others = [ws.execute("pass") for _ in range(1050)]
        assert ws.collect(first, LONG).status == "error"
        assert ws.collect(others[0], LONG).status == "aborted"
        assert ws.collect(others[-1], LONG).status in ("ok", "aborted")
        assert ws.closed is None
    end_kernel(client, kernel_id)


def test_what_the_bound_cut_is_told(limited: Server) -> None:
    """A client that was away while 20 MB came, of which 1 MB is kept."""
    client = limited.client()
    kernel_id = start_kernel(client)
    first = KernelSocket(client, kernel_id)
    msg_id = first.execute("import time; time.sleep(0.5)\nfor _ in range(200): print('x' * 100_000)")
    first.wait(lambda one: one.type == "execute_input")
    first.cut()
    wait_for(lambda: client.request("GET", f"/api/kernels/{kernel_id}").json()["execution_state"] == "idle", LONG)
    with first.again() as second:
        second.wait(lambda one: one.parent_id == msg_id and one.state == "idle")
        notices = [one for one in second.messages if one.type == "stream" and "dropped" in one.content["text"]]
        assert [(one.content["name"], one.channel) for one in notices] == [("stderr", "iopub")]
        assert second.run("print(1)").stdout == "1\n"
    end_kernel(client, kernel_id)


# ---- what a request may say


WRONG_CONTENTS: dict[str, Json] = {
    "nothing": {},
    "no code": {"silent": False},
    "code null": {"code": None},
    "code a number": {"code": 1},
    "code a list": {"code": ["print(1)"]},
    "code an object": {"code": {}},
    "silent a text": {"code": "1", "silent": "no"},
    "silent a number": {"code": "1", "silent": 1},
    "store_history a list": {"code": "1", "store_history": []},
    "user_expressions a list": {"code": "1", "user_expressions": ["1"]},
    "user_expressions of numbers": {"code": "1", "user_expressions": {"a": 1}},
    "user_expressions a text": {"code": "1", "user_expressions": "a"},
    "allow_stdin a text": {"code": "1", "allow_stdin": "true"},
    "stop_on_error an object": {"code": "1", "stop_on_error": {"a": 1}},
    "a name of surrogates": {"code": "1", "user_expressions": {"\ud800": "1"}, "silent": 2},
}


@pytest.mark.parametrize("case", WRONG_CONTENTS)
def test_an_execution_with_wrong_fields_is_answered_with_an_error(ws: KernelSocket, case: str) -> None:
    cell = ws.collect(ws.send("execute_request", WRONG_CONTENTS[case]))
    assert cell.status == "error"
    assert {"ename", "evalue", "traceback"} <= set(cell.reply.content)
    assert ws.run("print(1)").stdout == "1\n"


STRANGE_HEADERS: dict[str, Json] = {
    "session a number": {"session": 5},
    "session an object": {"session": {"a": [1]}},
    "username a list": {"username": ["x"]},
    "date a number": {"date": 5},
    "date nonsense": {"date": "yesterday"},
    "date of a year that is none": {"date": "99999-99-99T99:99:99.999999Z"},
    "version a list": {"version": [5, 4]},
    "version nonsense": {"version": "x"},
    "100 levels": {"more": json.loads('{"a":' * 90 + "1" + "}" * 90)},
    "50 kB": {"more": "x" * 50_000},
    "surrogates": {"more": "\ud800", "username": "\udfff"},
    "an id of 256 characters": {"msg_id": "é" * 256},
    "an id of quotes": {"msg_id": '"\\"},"channel":"x"' + secrets.token_hex(4)},
    "an id of NUL": {"msg_id": "\0" + secrets.token_hex(4)},
}


@pytest.mark.parametrize("case", [*STRANGE_HEADERS, "only id and type"])
@pytest.mark.parametrize("protocol", [True, False], ids=["v1", "legacy"])
def test_an_execution_with_a_strange_header_is_answered(
    client: Client, kernel_id: str, case: str, protocol: bool
) -> None:
    own = header(**{"msg_id": secrets.token_hex(8), **STRANGE_HEADERS.get(case, {})})
    if case == "only id and type":
        own = {name: own[name] for name in ("msg_id", "msg_type")}
    parts: list[Json] = [own, {}, {}, {"code": "print('hello')", "silent": False}]
    with KernelSocket(client, kernel_id, v1=protocol) as ws:
        if protocol:
            ws.send_frame(BINARY, encode_v1("shell", parts))
        else:
            names = ("header", "parent_header", "metadata", "content")
            fields = json.dumps({**dict(zip(names, parts, strict=True)), "channel": "shell"})
            ws.send_frame(TEXT, fields.encode())
        cell = ws.collect(own["msg_id"])
        assert (cell.status, cell.stdout) == ("ok", "hello\n")
        assert ws.run("print(1)").stdout == "1\n"


@pytest.mark.parametrize("subshell", ["nothing", 0, 5, ["a"], {"a": 1}, True, "x" * 10_000], ids=str)
def test_a_subshell_that_there_is_not_harms_nothing(ws: KernelSocket, subshell: object) -> None:
    for msg_type, content in (
        ("execute_request", {"code": "print(1)"}),
        ("complete_request", {"code": "", "cursor_pos": 0}),
    ):
        ws.send(msg_type, content, subshell_id=subshell)
    for channel in ("shell", "control"):
        assert ws.ask("kernel_info_request", channel=channel).content["status"] == "ok"
    assert ws.run("print(1)").stdout == "1\n"
    assert ws.ask("complete_request", {"code": "pri", "cursor_pos": 3}).content["matches"]


ODD_REQUESTS: list[tuple[str, str, Json]] = [
    ("shell", "complete_request", {}),
    ("shell", "complete_request", {"code": 1, "cursor_pos": "x"}),
    ("shell", "complete_request", {"code": "x", "cursor_pos": -(10**18)}),
    ("shell", "inspect_request", {"code": "x", "cursor_pos": 10**18, "detail_level": "x"}),
    ("shell", "history_request", {"hist_access_type": "tail", "n": -5}),
    ("shell", "history_request", {"hist_access_type": ["x"]}),
    ("shell", "is_complete_request", {"code": None}),
    ("shell", "comm_open", {"comm_id": ["x"], "target_name": 5, "data": None}),
    ("shell", "comm_msg", {"comm_id": "nothing"}),
    ("shell", "comm_close", {}),
    ("shell", "comm_info_request", {"target_name": {"a": 1}}),
    ("shell", "nonsense_request", {}),
    ("shell", "input_reply", {"value": "x"}),
    ("shell", "interrupt_request", {}),
    ("control", "execute_request", {"code": "print('on control')"}),
    ("control", "debug_request", {"command": "nonsense", "seq": "x"}),
    ("control", "create_subshell_request", {"x": 1}),
    ("control", "delete_subshell_request", {"subshell_id": "nothing"}),
    ("control", "nonsense_request", {}),
    ("control", "input_reply", {"value": "x"}),
    ("stdin", "execute_request", {"code": "print('on stdin')"}),
    ("stdin", "kernel_info_request", {}),
    ("stdin", "input_reply", {"value": 5}),
    ("stdin", "input_reply", {}),
    ("shell", "status", {"execution_state": "dead"}),
    ("shell", "execute_reply", {"status": "ok"}),
]


def test_requests_that_make_no_sense_harm_nothing(client: Client, own_kernel: str) -> None:
    with KernelSocket(client, own_kernel) as ws:
        for channel, msg_type, content in ODD_REQUESTS:
            ws.send(msg_type, content, channel)
        assert ws.run("x = input.__name__\nprint(x)").stdout.endswith("\n")
        assert ws.ask("complete_request", {"code": "pri", "cursor_pos": 3}).content["matches"]
        assert ws.run("print(1)").stdout == "1\n"
    check_works(client, own_kernel)


def test_what_is_between_server_and_kernel_no_client_can_say(ws: KernelSocket) -> None:
    """``metadata.kernelgate`` of a client does not reach the kernel; its other metadata do."""
    code = "import sys; print(sys.argv[1:], get_ipython().kernel.get_parent()['metadata'].get('mine'))"
    own = {"argv": ["evil"], "save": {"have": "x", "seconds": 1e9}, "max_stream_chars": 1}
    msg_id = ws.send("execute_request", {"code": code}, metadata={"kernelgate": own, "mine": 7})
    assert ws.collect(msg_id).stdout == "[] 7\n"
    show = "print(get_ipython().kernel.get_parent()['metadata'].get('kernelgate', {}).get('argv'))"
    msg_id = ws.send("execute_request", {"code": show}, metadata={"kernelgate": own})
    assert "evil" not in ws.collect(msg_id).stdout


# ---- ids that are used twice


def test_one_id_for_many_requests_is_answered_and_harms_nothing(ws: KernelSocket) -> None:
    """Five executions with one msg_id, sent at once: those that come while it is under way may be passed over."""
    own = header()
    for number in range(5):
        ws.send_frame(BINARY, encode_v1("shell", [own, {}, {}, {"code": f"print({number})"}]))
    assert ws.collect(own["msg_id"]).of("execute_reply")[0].content["status"] == "ok"
    assert ws.run("print(1)").stdout == "1\n"
    assert "0\n" in ws.seen(own["msg_id"]).stdout


@pytest.mark.parametrize("channel", ["control", "shell"])
def test_an_id_of_another_client_takes_nothing_from_it(client: Client, kernel_id: str, channel: str) -> None:
    """While a cell of one client runs, another sends requests with its id: the cell's reply is its own."""
    with KernelSocket(client, kernel_id) as one, KernelSocket(client, kernel_id) as other:
        msg_id = one.execute("import time; time.sleep(1.5); print('all of it')")
        one.wait(lambda message: message.parent_id == msg_id and message.type == "execute_input")
        subshell = other.ask("create_subshell_request", channel="control").content["subshell_id"]
        for msg_type, content in (
            ("list_subshell_request", {}),
            ("debug_request", {"command": "debugInfo", "seq": 1, "type": "request", "arguments": {}}),
            ("execute_request", {"code": "print('of the other')"}),
            ("complete_request", {"code": "pri", "cursor_pos": 3}),
        ):
            own = header(msg_type, msg_id=msg_id, **({"subshell_id": subshell} if channel == "shell" else {}))
            other.send_frame(BINARY, encode_v1(channel, [own, {}, {}, content]))
        wait_for(lambda: one.seen(msg_id).of("execute_reply"), 20)
        one.wait_quiet()
        cell = one.seen(msg_id)
        assert [reply.type for reply in cell.messages if reply.channel == "shell"] == ["execute_reply"]
        assert cell.of("execute_reply")[0].content["status"] == "ok"
        assert "all of it\n" in cell.stdout
        at = [message.label for message in cell.messages]
        assert at.index("execute_reply") > at.index("stream")
        assert one.run("print(1)").stdout == "1\n"


# ---- kernels that forge


FORGE = """
import json
kernel = get_ipython().kernel
session, iopub = kernel.session, kernel.iopub_socket

def raw(socket, *frames):
    for part in (frames, [b"topic", *frames]):
        try: socket.send_multipart([bytes(frame) for frame in part])
        except Exception as error: print(type(error))

def header(msg_type, **more):
    return json.dumps({"msg_id": "forged", "msg_type": msg_type, "session": "s", **more}).encode()

parents = [b"{}", json.dumps(PARENT).encode(), b'{"msg_id": "kernelgate"}']
contents = [
    b"{}", b"[]", b"", b"nothing", b'{"text": NaN}', b'{"a":' * 5000, b'\\xef\\xbb\\xbf{}',
    '{"text":"x"}'.encode("utf-16-le"), '{"text":"x"}'.encode("utf-16"), b'{}}{"a":{}',
    b'{"text":"x"},"channel":"shell","content":{}', b'{"text":"\\xff"}', b'{"execution_state": "dead"}',
    b'{"execution_state": ["idle"]}', b'{"comm_id": {}}', b'{"text": 5, "name": []}',
]
for parent in parents:
    for content in contents:
        for msg_type in "stream status comm_open comm_close execute_reply input_request shutdown_reply".split():
            if msg_type == "status" and content.endswith(b"}") and b"execution_state" not in content:
                continue
            raw(iopub, b"<IDS|MSG>", b"", header(msg_type), parent, b"{}", content)
            raw(kernel.shell_stream if hasattr(kernel, "shell_stream") and kernel.shell_stream else iopub,
                b"<IDS|MSG>", b"", header(msg_type), parent, b"{}", content)
for frames in ([], [b""], [b"<IDS|MSG>"], [b"<IDS|MSG>"] * 5, [b"<IDS|MSG>", b"", b"[]", b"{}", b"{}", b"{}"],
               [b"<IDS|MSG>", b"", header("stream"), b'"x"', b"{}", b"{}"], [b"x"] * 300,
               [b"<IDS|MSG>", b"", header("stream"), b"{}", b"{}", b"{}", *[b"y"] * 300],
               [b"<IDS|MSG>", b"", header("x" * 100000), b"{}", b"{}", b"{}"],
               [b"<IDS|MSG>", b"", b'\\xef\\xbb\\xbf' + header("stream"), b"{}", b"{}", b"{}"],
               [b"<IDS|MSG>", b"", header("stream").decode().encode("utf-16-le"), b"{}", b"{}", b"{}"]):
    raw(iopub, *frames)
print("forged")
"""


def test_a_kernel_that_forges_reaches_its_own_clients_only_and_with_frames_they_can_read(
    client: Client, kernel_id: str, own_kernel: str, ws: KernelSocket
) -> None:
    """Messages in the name of another session's request, and what is no message at all."""
    before = len(ws.messages)
    with KernelSocket(client, own_kernel) as new, KernelSocket(client, own_kernel, v1=False) as old:
        foreign = ws.execute("import time; time.sleep(1)")
        ws.wait(lambda one: one.parent_id == foreign and one.type == "execute_input")
        parent = {"msg_id": foreign, "msg_type": "execute_request", "session": ws.session}
        msg_id = new.execute(f"PARENT = {parent!r}\n" + FORGE)
        new.wait(lambda one: one.type == "stream" and "forged\n" in str(one.content.get("text")), LONG)
        ws.collect(foreign)
        for one in (new, old):
            cell = one.run("print('goes on')", timeout=LONG)
            assert "goes on\n" in cell.stdout
            assert one.failure is None
        wait_for(lambda: new.seen(msg_id).of("execute_reply"))
    ws.wait_quiet()
    assert [one for one in ws.messages[before:] if one.id == "forged"] == []
    assert ws.closed is None


# ---- starts, ends, interrupts, restarts


def statuses(answers: list[requests.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def at_once(work: list[Callable[[], requests.Response]]) -> list[requests.Response]:
    futures = [in_background(each) for each in work]
    return [future.result(LONG) for future in futures]


def test_fifty_starts_at_once_make_as_many_kernels_as_there_may_be(limited: Server) -> None:
    """Three: not one kernel and not one container more; when one ends, there is room for one."""
    client = limited.client()
    for each in client.request("GET", "/api/kernels").json():
        end_kernel(client, each["id"])
    answers = at_once([lambda: client.request("POST", "/api/kernels", json={})] * 50)
    assert statuses(answers) == {201: 3, 403: 47}
    assert {answer.json()["error"] for answer in answers if answer.status_code == 403} == {"kernel_limit"}
    assert len(client.request("GET", "/api/kernels").json()) == 3
    wait_for(lambda: limited.client().pool()["starting"] == 0 if "starting" in client.pool() else True)
    assert len(limited.containers()) <= 3 + 2
    ids = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    document = {"path": "a.ipynb", "name": "", "type": "notebook", "kernel": {"name": "python3"}}
    assert client.request("POST", "/api/sessions", json=document).status_code == 403
    end_kernel(client, ids.pop())
    answers = at_once([lambda: client.request("POST", "/api/kernels", json={})] * 10)
    assert statuses(answers) == {201: 1, 403: 9}
    for answer in answers:
        ids += [answer.json()["id"]] if answer.status_code == 201 else []
    for one in ids:
        end_kernel(client, one)


def test_starts_one_after_the_other_use_up_the_limit(limited: Server) -> None:
    """Each begins while the one before is being stored: a kernel that begins counts once."""
    client = limited.client()
    for each in client.request("GET", "/api/kernels").json():
        end_kernel(client, each["id"])
    for _ in range(3):
        futures = []
        for _ in range(3):
            futures.append(in_background(client.request, "POST", "/api/kernels", json={}))
            time.sleep(0.02)
        answers = [future.result(LONG) for future in futures]
        assert statuses(answers) == {201: 3}
        for answer in answers:
            end_kernel(client, answer.json()["id"])


def test_an_id_is_given_once(client: Client) -> None:
    """Ten starts with one kernel_id at once, and one after them."""
    kernel_id = str(uuid.uuid4())
    start = [lambda: client.request("POST", "/api/kernels", json={"kernel_id": kernel_id})]
    assert statuses(at_once(start * 10)) == {201: 1, 409: 9}
    check_works(client, kernel_id)
    assert statuses(at_once(start)) == {409: 1}
    check_works(client, kernel_id)
    end_kernel(client, kernel_id)
    assert statuses(at_once(start)) == {201: 1}
    end_kernel(client, kernel_id)


def test_each_kernel_has_its_own_environment(client: Client) -> None:
    """Six starts at once, each with a value of its own: none sees another's, nor what the server has."""
    started = at_once(
        [
            lambda number=number: client.request("POST", "/api/kernels", json={"env": {OWN_ENV: f"of {number}"}})  # type: ignore[misc]
            for number in range(6)
        ]
    )
    code = f"import os; print(os.environ.get('{OWN_ENV}'), sorted(n for n in os.environ if 'API_KEY' in n))"
    for number, answer in enumerate(started):
        assert answer.status_code == 201, answer.text
        with KernelSocket(client, answer.json()["id"]) as ws:
            assert ws.run(code).stdout == f"of {number} []\n"
        end_kernel(client, answer.json()["id"])
    with KernelSocket(client, start_kernel(client)) as ws:
        assert ws.run(code).stdout == "None []\n"
    end_kernel(client, ws.kernel_id)


def test_names_that_are_not_allowed_do_not_reach_the_kernel(limited: Server) -> None:
    client = limited.client()
    wanted = {
        "KERNEL_A": "a'\"\\\n\u20ac",
        "MY_B": "b",
        "MY_BB": "no",
        "my_b": "no",
        "XKERNEL_A": "no",
        "PATH": "/no",
        "LD_PRELOAD": "/no.so",
        "PYTHONSTARTUP": "/no.py",
        "KERNEL": "no",
    }
    with KernelSocket(client, start_kernel(client, env=wanted)) as ws:
        code = "import os; print({n: v for n, v in os.environ.items() if v.startswith('/no') or n in %r})"
        told = ws.run(code % ([*wanted],)).stdout
        found = {name: value for name, value in eval(told).items() if name != "PATH"}  # noqa: S307
        assert found == {name: wanted[name] for name in ("KERNEL_A", "MY_B")}
        assert "/no" not in told
    end_kernel(client, ws.kernel_id)
    for env in ({"A=B": "x"}, {"": "x"}, {"A\0": "x"}, {"A": "\0"}, {"A": 1}, ["A"], "A", {"A": "x" * 40_000}):
        answer = client.request("POST", "/api/kernels", json={"env": env})
        assert answer.status_code == 400, env


def test_a_kernel_that_is_deleted_while_it_runs_is_dead_at_once(server: Server, client: Client) -> None:
    kernel_id = start_kernel(client)
    with KernelSocket(client, kernel_id) as ws, KernelSocket(client, kernel_id) as other:
        msg_id = ws.execute("import socket; print(socket.gethostname(), flush=True); import time; time.sleep(60)")
        name = ws.wait(lambda one: one.type == "stream").content["text"].strip()
        started = time.monotonic()
        assert client.request("DELETE", f"/api/kernels/{kernel_id}").status_code == 204
        assert time.monotonic() - started < PROMPT
        for one in (ws, other):
            one.wait_state("dead")
            assert one.wait_closed() != 1006
        assert "restarting" not in [one.state for one in ws.messages]
        assert ws.seen(msg_id).of("execute_input")
    wait_for(lambda: not any(container.startswith(name) for container in server.containers()))
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/restart"), ("POST", "/interrupt")):
        assert client.request(method, f"/api/kernels/{kernel_id}{path}").status_code == 404
    assert client.request("GET", f"/sessions/{kernel_id}").status_code == 404
    with pytest.raises(Refused) as refused:
        KernelSocket(client, kernel_id)
    assert refused.value.status == 404


def test_a_kernel_is_deleted_whatever_waits_for_it(client: Client) -> None:
    """With 50 cells in its queue, of which one ends every few milliseconds."""
    for _ in range(4):
        kernel_id = start_kernel(client)
        with KernelSocket(client, kernel_id) as ws:
            cells = [ws.execute("pass") for _ in range(50)]
            ws.collect(cells[3])
            answer = client.request("DELETE", f"/api/kernels/{kernel_id}")
            assert answer.status_code == 204, answer.text
            ws.wait_state("dead")
            ws.wait_closed()
        assert client.request("GET", f"/api/kernels/{kernel_id}").status_code == 404


def test_a_thousand_interrupts_leave_a_kernel_that_works(client: Client, own_kernel: str) -> None:
    """While it idles and while it runs, as messages and by REST."""
    with KernelSocket(client, own_kernel) as ws:
        assert ws.run("x = 41").status == "ok"
        for _ in range(1000):
            ws.send("interrupt_request", {}, "control")
        msg_id = ws.execute("import time\nwhile True: time.sleep(0.01)")
        ws.wait(lambda one: one.parent_id == msg_id and one.type == "execute_input")
        for number in range(1000):
            if number % 50 == 0:
                assert client.request("POST", f"/api/kernels/{own_kernel}/interrupt").status_code == 204
            ws.send("interrupt_request", {}, "control")
        assert ws.collect(msg_id, LONG).reply.content["ename"] == "KeyboardInterrupt"
        wait_for(lambda: sum(one.type == "interrupt_reply" for one in ws.messages) == 2000, LONG)
        cell = ws.run("print(x + 1)", timeout=LONG)
        assert (cell.stdout, cell.status) == ("42\n", "ok")


def test_a_restart_in_the_middle_of_saving_leaves_a_session_that_is_whole(client: Client, own_kernel: str) -> None:
    """A cell that makes 30 MB, and a restart as soon as it has ended, before it is stored."""
    with KernelSocket(client, own_kernel) as ws:
        for delay in (0.0, 0.05, 0.2):
            ws.run("before = 1")
            msg_id = ws.execute("import os\nlarge = os.urandom(30 << 20)\nprint('made', flush=True)")
            ws.wait(lambda one, sent=msg_id: one.parent_id == sent and one.type == "stream", LONG)  # type: ignore[misc]
            time.sleep(delay)
            answer = client.request("POST", f"/api/kernels/{own_kernel}/restart")
            assert answer.status_code == 200, answer.text
            cell = ws.collect(msg_id, LONG)
            assert cell.status in ("ok", "error", "aborted")
            assert ws.run("print('large' in globals(), 'before' in globals())").stdout == "False False\n"
    assert client.printed("print(1)", session_id=own_kernel) == "1\n"
    history = client.request("GET", f"/sessions/{own_kernel}/history").json()
    assert history["executions"] == len(history["history"])
    undone = client.request("POST", f"/sessions/{own_kernel}/undo", json={"steps": 1})
    assert undone.status_code == 200, undone.text
    check_works(client, own_kernel)


def test_restarts_executions_interrupts_and_a_delete_at_once_end_well(server: Server, client: Client) -> None:
    """Whatever comes first: no 500, each request is answered, and in the end nothing is left.

    A call of ``/exec`` whose turn it is as the kernel is restarted is answered with 409.
    """
    kernel_id = start_kernel(client)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(KernelSocket(client, kernel_id)) for _ in range(3)]
        cells = [(ws, ws.execute("import time; time.sleep(0.1)")) for ws in sockets for _ in range(5)]
        work: list[Callable[[], requests.Response]] = []
        for _ in range(4):
            work.append(lambda: client.request("POST", f"/api/kernels/{kernel_id}/restart"))
            work.append(lambda: client.request("POST", f"/api/kernels/{kernel_id}/interrupt"))
            work.append(lambda: client.post(client.body("print(1)", session_id=kernel_id)))
            work.append(lambda: client.request("GET", f"/api/kernels/{kernel_id}"))
        answers = at_once(work)
        wrong = [answer for answer in answers if answer.status_code not in (200, 204, 409)]
        assert wrong == [], [(answer.request.method, answer.url, answer.text) for answer in wrong]
        for ws, msg_id in cells:
            assert ws.collect(msg_id, LONG).status in ("ok", "error", "aborted")
        check_works(client, kernel_id)
        for ws in sockets:
            ws.execute("import time; time.sleep(0.1)")
        delete = [lambda: client.request("DELETE", f"/api/kernels/{kernel_id}")]
        answers = at_once([*work[:8], *delete, *work[8:], *delete])
        wrong = [answer for answer in answers if answer.status_code not in (200, 204, 404, 409)]
        assert wrong == [], [(answer.request.method, answer.url, answer.text) for answer in wrong]
        for ws in sockets:
            ws.wait_closed()
    client.delete(kernel_id)  # an /exec that came behind the DELETE began a new session of that id
    assert client.request("GET", f"/api/kernels/{kernel_id}").status_code == 404


# ---- ends that nobody asked for


def is_dormant(client: Client, session_id: str) -> bool:
    return bool(client.session(session_id)["state"] == "dormant")


def test_kernels_that_idle_or_hang_are_ended_and_their_sessions_go_on(servers: Servers) -> None:
    """CULL_IDLE_TIMEOUT with CULL_CONNECTED and CULL_BUSY."""
    for server in run_server(servers, CULLED):
        client = server.client()
        kernel_id = start_kernel(client)
        with KernelSocket(client, kernel_id) as ws:
            ws.run("x = 41")
            wait_for(partial(is_dormant, client, kernel_id), 15)
            assert ws.run("print(x + 1)").stdout == "42\n"
            noisy = ws.execute("import time\nfor n in range(8): time.sleep(0.5); print(n, flush=True)")
            assert ws.collect(noisy).status == "ok"
            quiet = ws.execute("import time; time.sleep(60)")
            cell = ws.collect(quiet)
            assert (cell.status, cell.reply.content["ename"]) == ("error", "KernelDied")
            assert ws.run("print(x + 1)").stdout == "42\n"
        end_kernel(client, kernel_id)


def test_what_begins_or_puts_something_out_does_not_count_as_idle(servers: Servers) -> None:
    """CULL_BUSY: neither a session that is taken up again is culled, nor an execution that prints."""
    for server in run_server(servers, CULLED):
        client, session_id = server.client(), new_id()
        code = "for n in range(30): time.sleep(0.1); print(n, flush=True)"
        client.run("import time; x = 41", session_id=session_id)
        for _ in range(3):
            wait_for(partial(is_dormant, client, session_id), 15)
            assert client.printed("time.sleep(0.5); print(x + 1)", session_id=session_id) == "42\n"
            assert client.run(code, session_id=session_id)["status"] == "ok"
        client.delete(session_id)


def test_a_cell_may_run_as_long_as_the_limit_says(limited: Server) -> None:
    """MAX_BUSY_SECONDS: 8 here; the cell is interrupted and the kernel goes on."""
    client = limited.client()
    kernel_id = start_kernel(client)
    with KernelSocket(client, kernel_id) as ws:
        ws.run("x = 41")
        cell = ws.run("import time; time.sleep(60)")
        assert cell.reply.content["ename"] == "KeyboardInterrupt"
        assert ws.run("print(x + 1)").stdout == "42\n"
    end_kernel(client, kernel_id)


def test_a_server_that_is_stopped_ends_in_time_and_leaves_nothing(start_server: Callable[..., Server]) -> None:
    """With clients connected and cells running: clients are closed, no container is left, the log is clean."""
    server = start_server({"SHUTDOWN_SECONDS": "2"}).wait_ready()
    client = server.client()
    sockets = [KernelSocket(client, start_kernel(client), v1=bool(number)) for number in range(2)]
    for ws in sockets:
        msg_id = ws.execute("import time; time.sleep(600)")
        ws.wait(lambda one, sent=msg_id: one.parent_id == sent and one.type == "execute_input")  # type: ignore[misc]
    sockets.append(sockets[0].again("another"))
    sockets[2].execute("print('behind the other')")
    sockets[2].pause()
    server.signal(signal.SIGTERM)
    assert server.wait(20) == 0
    for ws in sockets:
        ws.resume()
        ws.wait_closed()
        ws.close()
    assert server.containers() == []
    check_log(server)
