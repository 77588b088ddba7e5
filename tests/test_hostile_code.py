"""Code that attacks: it gets nowhere, its caller gets an answer, another owner is served promptly meanwhile."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import SECRET_MARKER
from tests.server import KEY, OTHER_KEY, PROMPT, Client, Json, Server, in_background, new_id, wait_for

Attack = Callable[..., Json]
WRITABLE = {"/mnt/data", "/tmp", "/home/sandbox", "/dev/shm", "/dev/mqueue"}
STATUSES = {"ok", "error", "timeout", "out_of_memory", "killed"}

FORGE = """
import json
kernel = get_ipython().kernel
parent = kernel.get_parent('shell')
shell_ident = kernel._get_shell_context_var(kernel._shell_parent_ident)
sockets = {
    'iopub': (kernel.iopub_socket, [b'topic']),
    'shell': (kernel.shell_stream.socket, shell_ident),
    'control': (kernel.control_stream.socket, kernel._control_parent_ident),
}
def send_frames(channel, frames):
    socket, prefix = sockets[channel]
    try: socket.send_multipart([*prefix, *frames])
    except Exception: pass
def send(channel, msg_type, content, parent=parent):
    frames = kernel.session.serialize(kernel.session.msg(msg_type, {}, parent=parent))
    frames[-1] = content if isinstance(content, bytes) else json.dumps(content).encode()
    send_frames(channel, frames)
"""


@pytest.fixture(scope="module")
def bystander(server: Server) -> Iterator[Callable[[], None]]:
    """Checks that another owner's call is answered promptly and right."""
    client, session_id = server.client(OTHER_KEY), new_id()
    client.run("pass", session_id=session_id)

    def check() -> None:
        started = time.monotonic()
        assert client.run("print(1)", session_id=session_id)["stdout"] == "1\n"
        assert time.monotonic() - started < PROMPT

    yield check
    client.delete(session_id)


@pytest.fixture
def attack(client: Client, session_id: str, bystander: Callable[[], None]) -> Attack:
    """Runs code in a session of its own while another owner's calls are checked; returns the reply."""

    def run(code: str, **fields: object) -> Json:
        running = in_background(client.run, code, session_id=session_id, **fields)
        while not running.done():
            bystander()
            time.sleep(0.1)
        bystander()
        reply = running.result()
        assert reply["status"] in STATUSES
        return reply

    return run


def check_usable(attack: Attack) -> None:
    """Check that the attacked session answers, with its kernel or a new one, and with its own output only."""
    reply = attack("print('still here')")
    assert (reply["status"], reply["stdout"]) == ("ok", "still here\n"), reply["stderr"][-2000:]


# --- processor, memory, processes, descriptors


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        "import threading\ndef spin():\n    while True: pass\n"
        "for _ in range(8): threading.Thread(target=spin).start()\nspin()",
        "10 ** 10 ** 10",
    ],
    ids=["loop", "SIGINT ignored", "threads", "big number"],
)
def test_a_busy_loop_is_ended(attack: Attack, code: str) -> None:
    """Loops that may or may not heed an interrupt, in one thread and in many."""
    reply = attack(code, timeout=1000)
    assert (reply["status"], reply["exit_code"]) == ("timeout", 124)
    assert reply["duration_ms"] < 6000
    check_usable(attack)


def test_memory_is_bounded_in_one_process(attack: Attack) -> None:
    """4 GiB in pieces of 16 MB."""
    reply = attack("hoard = []\nfor _ in range(256): hoard.append(b'x' * (16 << 20))")
    assert (reply["status"], reply["exit_code"]) == ("out_of_memory", 137)
    check_usable(attack)


def test_memory_is_bounded_in_children(attack: Attack) -> None:
    """Two children take 300 MB each and keep them: together that is over the limit."""
    reply = attack(
        "import os, time\n"
        "def eat():\n    x = b'x' * (300 << 20)\n    time.sleep(2)\n    os._exit(0)\n"
        "children = []\n"
        "for _ in range(2):\n    pid = os.fork()\n    if not pid: eat()\n    children.append(pid)\n"
        "codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]\n"
        "print(min(codes))"
    )
    assert (reply["status"], reply["stdout"]) == ("ok", "-9\n") or reply["status"] == "out_of_memory"
    check_usable(attack)


def test_a_fork_bomb_stays_in_its_container(attack: Attack) -> None:
    """Every process forks for ever."""
    reply = attack("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", timeout=2000)
    assert reply["status"] == "timeout"
    check_usable(attack)


def test_a_shells_fork_bomb_stays_in_its_container(attack: Attack) -> None:
    """The classic, in the background of a shell: the call ends, the bomb goes on within its bounds."""
    attack("import os; _ = os.system(\"bash -c ':(){ :|:& };:' >/dev/null 2>&1 &\")", timeout=3000)
    attack("import time; time.sleep(1)", timeout=3000)


def test_a_flood_of_threads_hits_a_limit(attack: Attack) -> None:
    """10,000 threads that stay."""
    reply = attack(
        "import threading\nstop = threading.Event()\n"
        "try:\n    for n in range(10_000): threading.Thread(target=stop.wait).start()\n"
        "except RuntimeError as error:\n    print(error, n < 100)\nfinally:\n    stop.set()"
    )
    assert reply["stdout"] == "can't start new thread True\n"
    check_usable(attack)


def test_a_flood_of_descriptors_hits_a_limit(attack: Attack) -> None:
    """Descriptors until there are no more; they are kept, and the session goes on without any."""
    reply = attack("import os\nkept = []\nwhile True: kept.append(os.dup(0))")
    assert reply["status"] == "error"
    assert reply["stderr"].rstrip().endswith("OSError: [Errno 24] Too many open files")
    check_usable(attack)


# --- disk


def test_only_bounded_memory_can_be_written_to(attack: Attack) -> None:
    """All folders of the container but /proc and /sys: those that can be written to are tmpfs with a limit."""
    reply = attack(
        "import os\n"
        "found = set()\n"
        "for root, folders, _ in os.walk('/'):\n"
        "    folders[:] = [f for f in folders if os.path.join(root, f) not in ('/proc', '/sys')]\n"
        "    if os.access(root, os.W_OK):\n"
        "        found.add(root)\n"
        "        folders.clear()\n"
        "print(*sorted(found))"
    )
    assert set(reply["stdout"].split()) <= WRITABLE


def test_every_writable_folder_fills_up_to_its_limit(attack: Attack) -> None:
    """Files in each writable folder until nothing more can be written, then as many empty ones as there may be."""
    reply = attack(
        "import os\n"
        "total = files = 0\n"
        "for folder in ('/mnt/data', '/tmp', '/home/sandbox', '/dev/shm', '/dev/mqueue'):\n"
        "    try:\n"
        "        for number in range(10_000):\n"
        "            with open(f'{folder}/fill-{number}', 'wb', buffering=0) as file:\n"
        "                for _ in range(8): total += file.write(b'x' * (1 << 20))\n"
        "    except OSError as error: pass\n"
        "    try:\n"
        "        for number in range(100_000):\n"
        "            open(f'{folder}/empty-{number}', 'wb').close(); files += 1\n"
        "    except OSError as error: pass\n"
        "print(total >> 20, files < 100_000)"
    )
    if reply["status"] == "ok":
        megabytes, bounded = reply["stdout"].split()
        assert int(megabytes) <= 192 + 64 + 16 + 64
        assert bounded == "True"
    else:
        assert reply["status"] == "out_of_memory"
    check_usable(attack)


def test_a_huge_sparse_file_is_refused(attack: Attack) -> None:
    """A file of 1 PiB without contents, in each folder, by truncate, seek and fallocate."""
    reply = attack(
        "import os\n"
        "for folder in ('/mnt/data', '/tmp', '/home/sandbox', '/dev/shm'):\n"
        "    file = os.open(f'{folder}/big', os.O_RDWR | os.O_CREAT)\n"
        "    for action in (\n"
        "        lambda: os.ftruncate(file, 1 << 50),\n"
        "        lambda: os.pwrite(file, b'x', 1 << 50),\n"
        "        lambda: os.posix_fallocate(file, 0, 1 << 50),\n"
        "    ):\n"
        "        try: action()\n"
        "        except OSError as error: print(error.errno in (27, 28))\n"
        "        else: print('done', folder)\n"
        "    os.close(file)"
    )
    assert reply["stdout"] == "True\n" * 12
    check_usable(attack)


# --- floods of output


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize(
    "code",
    [
        "import sys\nwhile True: print('x' * 1000, file=sys.{name})",
        "import os\nwhile True: os.write({number}, b'x' * 65536)",
        "import subprocess\nsubprocess.run('yes 1>&{number}', shell=True)",
    ],
    ids=["print", "descriptor", "subprocess"],
)
def test_a_flood_of_text_is_cut(attack: Attack, name: str, code: str) -> None:
    """Text without end by print, by descriptor and from a subprocess, to stdout and stderr."""
    reply = attack(code.format(name=name, number=1 if name == "stdout" else 2), timeout=1500)
    assert (reply["status"], reply["truncated"]) == ("timeout", [name])
    assert 900_000 < len(reply[name]) < 1_100_000
    attack("pass")
    check_usable(attack)


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nfor _ in range(2048): _ = sys.stdout.write('x' * (1 << 20))",
        "print('x' * (2 << 30))",
        "import subprocess\n_ = subprocess.run('head -c 2G /dev/zero', shell=True)",
    ],
    ids=["pieces", "one print", "subprocess"],
)
def test_a_line_of_2_gib_is_cut(attack: Attack, code: str) -> None:
    """A line without end: a million characters of it come, or the memory is used up, and the reply says which."""
    reply = attack(code)
    if reply["status"] == "ok":
        assert (len(reply["stdout"]), reply["truncated"]) == (1_000_000, ["stdout"])
    else:
        assert reply["status"] == "out_of_memory"
    check_usable(attack)


def test_a_flood_of_displays_is_cut(attack: Attack) -> None:
    """10^5 displays: a thousand come."""
    reply = attack(
        "publish = get_ipython().display_pub.publish\nfor n in range(100_000): publish({'text/plain': str(n)})",
        timeout=4000,
    )
    assert reply["status"] in ("ok", "timeout")
    assert [output["data"]["text/plain"] for output in reply["outputs"] if "data" in output] == [
        str(n) for n in range(1000)
    ]
    assert reply["truncated"] == ["outputs"]
    check_usable(attack)


def test_a_display_of_200_mb_is_left_out(attack: Attack) -> None:
    """One display that is larger than any reply: left out and said so, or too much for the container's memory."""
    reply = attack("get_ipython().display_pub.publish({'text/plain': 'x' * 200_000_000})\nprint('end')")
    if reply["status"] == "ok":
        assert reply["stdout"] == "end\n"
        assert "left out" in reply["stderr"]
    else:
        assert reply["status"] == "out_of_memory"
    assert sum(len(str(output)) for output in reply["outputs"]) < 10_000
    check_usable(attack)


def test_updates_of_many_displays_do_not_hold_up_others(attack: Attack) -> None:
    """1000 displays with one id, then updates of that id without end."""
    reply = attack(
        "publish = get_ipython().display_pub.publish\n"
        "for n in range(1000): publish({'text/plain': '0'}, transient={'display_id': 'x'})\n"
        "while True: publish({'text/plain': '1'}, transient={'display_id': 'x'}, update=True)",
        timeout=4000,
    )
    assert reply["status"] == "timeout"
    assert reply["duration_ms"] < 9000
    check_usable(attack)


@pytest.mark.parametrize("depth", [300, 600, 990, 100_000])
@pytest.mark.parametrize("place", ["data", "metadata"])
def test_deep_json_in_a_display_does_no_harm(attack: Attack, server: Server, place: str, depth: int) -> None:
    """Lists within lists as JSON data and as metadata, made without recursion: shown or left out."""
    logged = len(server.stderr)
    deep = f"'[' * {depth} + ']' * {depth}"
    data, metadata = (deep, "'1'") if place == "data" else ("'1'", deep)
    reply = attack(
        FORGE
        + f"data, metadata = {data}, {metadata}\n"
        + 'content = \'{"data": {"application/json": \' + data + \'}, "metadata": {"x": \' + metadata + \'}}\'\n'
        + "send('iopub', 'display_data', content.encode())\n"
        + "print('end')"
    )
    assert (reply["status"], reply["stdout"]) == ("ok", "end\n")
    assert "Traceback" not in server.stderr[logged:]
    assert reply["duration_ms"] < 5000
    assert len(reply["outputs"]) == 2 or reply["truncated"] == ["outputs"]
    check_usable(attack)


# --- processes


def test_killing_every_process_ends_only_the_own_kernel(attack: Attack) -> None:
    """SIGKILL to PID 1, to every PID that can be seen, and to all at once."""
    reply = attack(
        "import os\n"
        "own = os.getpid()\n"
        "pids = {int(name) for name in os.listdir('/proc') if name.isdigit()} - {own}\n"
        "for pid in [1, *pids, -1]:\n"
        "    try: os.kill(pid, 9)\n"
        "    except OSError: pass\n"
        "os.kill(own, 9)"
    )
    assert (reply["status"], reply["exit_code"]) == ("killed", 137)
    check_usable(attack)


def test_only_the_containers_own_processes_can_be_seen(attack: Attack) -> None:
    """The PIDs in /proc: tini and the kernel."""
    reply = attack(
        "import os\nprint(sorted(int(name) for name in os.listdir('/proc') if name.isdigit())[0], "
        "os.getpid() < 50)"
    )
    assert reply["stdout"] == "1 True\n"


def test_a_daemon_that_goes_on_printing_ends_with_its_session(
    attack: Attack, client: Client, session_id: str, server: Server
) -> None:
    """A grandchild in a session of its own prints without end: the call ends, others work, DELETE ends it all."""
    reply = attack(
        "import os\n"
        "if not os.fork():\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    while True: os.write(1, b'noise\\n' * 1000)\n"
        "_ = os.wait()\n"
        "print('parent')",
        timeout=5000,
    )
    assert reply["status"] == "ok"
    assert "parent\n" in reply["stdout"] or "stdout" in reply["truncated"]
    reply = attack("import sys; print('next', file=sys.stderr)", timeout=5000)
    assert reply["status"] == "ok"
    assert reply["stderr"].startswith("next\n")
    before = len(server.containers())
    assert client.delete(session_id).status_code == 204
    wait_for(lambda: len(server.containers()) < before or client.pool()["starting"])


def test_a_quiet_daemon_does_not_keep_the_call_from_ending(attack: Attack) -> None:
    """A grandchild that holds stdout open and sleeps: the call is answered at once."""
    reply = attack(
        "import subprocess\n_ = subprocess.Popen(['sleep', '60'], start_new_session=True)\nprint('done')"
    )
    assert (reply["status"], reply["stdout"]) == ("ok", "done\n")
    assert reply["duration_ms"] < 2000
    check_usable(attack)


# --- forged messages


def test_replies_to_invented_requests_are_passed_over(attack: Attack) -> None:
    """execute_reply, status, streams and errors whose parents nobody sent, on every channel."""
    reply = attack(
        FORGE
        + "other = {**parent, 'header': {**parent['header'], 'msg_id': 'invented'}, 'msg_id': 'invented'}\n"
        + "for channel in sockets:\n"
        + "    for invented in (other, {}):\n"
        + "        send(channel, 'execute_reply', {'status': 'ok', 'execution_count': 9}, invented)\n"
        + "        send(channel, 'status', {'execution_state': 'idle'}, invented)\n"
        + "        send(channel, 'stream', {'name': 'stdout', 'text': 'forged'}, invented)\n"
        + "        send(channel, 'error', {'ename': 'X', 'evalue': 'forged', 'traceback': []}, invented)\n"
        + "print('end')"
    )
    assert (reply["status"], reply["stdout"], reply["stderr"]) == ("ok", "end\n", "")
    assert len(reply["outputs"]) == 1
    check_usable(attack)


def test_an_early_reply_forged_for_the_own_request_shifts_nothing(attack: Attack) -> None:
    """The code says that it is done and goes on: the next calls get their own output and nothing of it."""
    reply = attack(
        FORGE
        + "send('shell', 'execute_reply', {'status': 'ok', 'execution_count': 1})\n"
        + "send('iopub', 'status', {'execution_state': 'idle'})\n"
        + "import time; time.sleep(1); print('late')"
    )
    assert reply["status"] == "ok"
    for number in range(3):
        assert attack(f"print({number})")["stdout"] == f"{number}\n"


def test_many_replies_to_the_own_request_are_one(attack: Attack) -> None:
    """1000 forged replies and idle messages: one answer, and the next calls are in step."""
    reply = attack(
        FORGE
        + "for _ in range(1000):\n"
        + "    send('shell', 'execute_reply', {'status': 'error', 'execution_count': 1})\n"
        + "    send('iopub', 'status', {'execution_state': 'idle'})\n"
    )
    assert reply["status"] in ("ok", "error")
    for number in range(3):
        assert attack(f"print({number})")["stdout"] == f"{number}\n"


def test_malformed_frames_are_passed_over(attack: Attack) -> None:
    """No delimiter, too few frames, too many, empty ones, no JSON, other types, 10,000 levels, huge headers."""
    reply = attack(
        FORGE
        + "good = kernel.session.serialize(kernel.session.msg('stream', {'name': 'stdout', 'text': 'x'}, "
        + "parent=parent))\n"
        + "deep = b'{\"a\":' * 10_000 + b'1' + b'}' * 10_000\n"
        + "bad = [[b''], [b'x'] * 5, [b'<IDS|MSG>'], [b'<IDS|MSG>', b'', b'{}'], good[1:], good[:4], "
        + "good + [b'x'] * 1000]\n"
        + "for junk in (b'', b'no json', b'[]', b'1', b'null', b'\\xff', b'NaN', deep, b' ' * 100_000 + b'{}',\n"
        + '             b\'{"msg_id": []}\', b\'{"msg_id": {}, "msg_type": 7}\', b\'{"msg_type": []}\'):\n'
        + "    for place in range(2, len(good)):\n"
        + "        bad.append([*good[:place], junk, *good[place + 1:]])\n"
        + "for channel in sockets:\n"
        + "    for frames in bad: send_frames(channel, frames)\n"
        + "print('end')"
    )
    assert reply["status"] in ("ok", "error")
    assert reply["stdout"].endswith("end\n")
    assert reply["duration_ms"] < 5000
    check_usable(attack)


def test_contents_of_wrong_types_are_passed_over(attack: Attack) -> None:
    """Each kind of message for the own request with contents of every wrong type: the reply is well-formed."""
    reply = attack(
        FORGE
        + "contents = [[], 1, 'x', None, {}, {'name': 'stdout', 'text': {}}, {'name': [], 'text': 'x'}, "
        + "{'name': 'x'},\n"
        + "    {'data': 1}, {'data': []}, {'data': {'text/plain': 1}}, {'data': {'text/plain': {}}},\n"
        + "    {'data': {'image/png': [1, 2]}}, {'data': {'text/plain': 'x'}, 'metadata': 'x', 'transient': []},\n"
        + "    {'data': {'text/plain': 'x'}, 'transient': {'display_id': {}}}, {'execution_state': []},\n"
        + "    {'execution_count': 10 ** 400}, {'execution_count': -1}, {'execution_count': True}, "
        + "{'execution_count': '1'},\n"
        + "    {'ename': [], 'evalue': {}, 'traceback': 'x'}, {'ename': 1, 'evalue': None, "
        + "'traceback': [1, None, {}]},\n"
        + "    {'wait': []}, {'data': {'\\ud800': '\\udfff'}}, {'data': {'application/json': '\\udfff'}}, 1e999]\n"
        + "for msg_type in ('stream', 'display_data', 'execute_result', 'update_display_data', 'error', "
        + "'clear_output',\n"
        + "                 'execute_input', 'status', 'comm_open', 'iopub_welcome', '', 'x' * 1000):\n"
        + "    for content in contents: send('iopub', msg_type, content)\n"
        + "print('end')"
    )
    assert reply["status"] in ("ok", "error")
    assert reply["stdout"].endswith("end\n")
    assert isinstance(reply["execution_count"], int | None)
    for output in reply["outputs"]:
        kind = output["output_type"]
        if kind == "stream":
            assert isinstance(output["text"], str)
            assert output["name"] in ("stdout", "stderr")
        elif kind == "error":
            assert isinstance(output["ename"], str)
            assert isinstance(output["evalue"], str)
            assert all(isinstance(line, str) for line in output["traceback"])
        else:
            assert isinstance(output["data"], dict)
            assert isinstance(output["metadata"], dict)
    check_usable(attack)


def test_replies_of_wrong_types_are_an_answer(attack: Attack) -> None:
    """execute_reply for the own request that is a list, has no status, or is no JSON."""
    for content in ("[]", "{}", "{'status': []}", "{'status': 'aborted'}", "b'no json'", "b'[' * 10_000"):
        reply = attack(FORGE + f"send('shell', 'execute_reply', {content})\nprint('end')")
        assert reply["stdout"] == "end\n"
    check_usable(attack)


def test_a_forged_exit_code_is_a_small_number(attack: Attack) -> None:
    """A SystemExit with a value of a million digits, and a traceback of a million lines."""
    reply = attack(
        FORGE
        + "send('iopub', 'error', {'ename': 'SystemExit', 'evalue': '9' * 1_000_000, "
        + "'traceback': ['x'] * 1_000_000})"
    )
    assert 0 <= reply["exit_code"] <= 255
    assert len(reply["stderr"]) < 3_000_000
    check_usable(attack)


def test_a_flood_of_forged_messages_does_not_hold_up_others(attack: Attack) -> None:
    """Malformed messages, and messages of one character each, as fast as they can be sent."""
    for content in ("b'no json'", "{'name': 'stdout', 'text': 'x'}"):
        reply = attack(FORGE + f"while True: send('iopub', 'stream', {content})", timeout=3000)
        assert reply["status"] == "timeout"
        check_usable(attack)


def test_the_sockets_cannot_be_replaced(attack: Attack) -> None:
    """Unlinking, renaming, linking, making and chmod in the socket folder, and mounting over it."""
    reply = attack(
        "import os\n"
        "folder = '/run/kernelgate/sockets'\n"
        "names = os.listdir(folder)\n"
        "first = os.path.join(folder, names[0])\n"
        "for action in (\n"
        "    lambda: os.unlink(first), lambda: os.rename(first, first + 'x'), lambda: os.chmod(folder, 0o777),\n"
        "    lambda: os.symlink('/etc/passwd', folder + '/link'), lambda: os.link(first, folder + '/hard'),\n"
        "    lambda: open(folder + '/new', 'w'), lambda: os.mkdir(folder + '/new'), "
        "lambda: os.rename(folder, '/tmp/x'),\n"
        "    lambda: os.unlink('/run/kernelgate/connection.json'), "
        "lambda: open('/run/kernelgate/connection.json', 'a'),\n"
        "    lambda: os.symlink('/tmp', '/run/kernelgate/x'),\n"
        "):\n"
        "    try: action()\n"
        "    except OSError as error: print(error.errno in (1, 13, 16, 18, 30))\n"
        "    else: print('done')\n"
        "print(len(names))"
    )
    assert reply["stdout"] == "True\n" * 11 + "5\n"
    check_usable(attack)


# --- secrets and the host


def test_nothing_of_the_servers_environment_can_be_seen(attack: Attack, server: Server) -> None:
    """Environments, command lines, mounts and every readable file of /run and /etc: no marker and no key."""
    assert server.environment["SECRET_TEST_MARKER"] == SECRET_MARKER
    reply = attack(
        "import os, glob\n"
        "texts = [repr(dict(os.environ))]\n"
        "for pattern in ('/proc/*/environ', '/proc/*/cmdline', '/proc/*/mountinfo', '/proc/cmdline', "
        "'/run/**/*',\n"
        "                '/etc/*', '/proc/*/maps'):\n"
        "    for path in glob.glob(pattern, recursive=True):\n"
        "        try: texts.append(open(path, 'rb').read(1 << 20).decode(errors='replace'))\n"
        "        except OSError: pass\n"
        "text = '\\n'.join(texts)\n"
        f"print({SECRET_MARKER[:9]!r} + {SECRET_MARKER[9:]!r} in text)\n"
        f"print({KEY[:5]!r} + {KEY[5:]!r} in text, {OTHER_KEY[:5]!r} + {OTHER_KEY[5:]!r} in text)\n"
        "print('docker.sock' in text, os.path.exists('/var/run/docker.sock'))\n"
        "print(len(text) > 1000)"
    )
    assert reply["stdout"] == "False\nFalse False\nFalse False\nTrue\n"


def test_no_folder_of_the_host_is_mounted_but_the_sockets(attack: Attack) -> None:
    """/proc/mounts: what lies on a real disk is the socket folder, the connection file and the host name."""
    reply = attack(
        "for line in open('/proc/mounts'):\n"
        "    device, path, kind, options = line.split()[:4]\n"
        "    if device.startswith('/dev/'): print(path, options.split(',')[0])"
    )
    mounts = dict(line.split() for line in reply["stdout"].splitlines())
    assert mounts.pop("/run/kernelgate/sockets") == "rw"
    assert set(mounts.values()) <= {"ro"}
    assert set(mounts) <= {"/run/kernelgate/connection.json", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}


def test_the_network_cannot_be_reached(attack: Attack, server: Server) -> None:
    """DNS, TCP to the server on the host's loopback, to Docker's bridge and to the Internet, UDP, IPv6."""
    reply = attack(
        "import socket\n"
        "def attempt(action):\n"
        "    try: action()\n"
        "    except OSError as error: print(type(error).__name__)\n"
        "    else: print('done')\n"
        "attempt(lambda: socket.getaddrinfo('example.com', 80))\n"
        f"attempt(lambda: socket.create_connection(('127.0.0.1', {server.port}), 2))\n"
        "attempt(lambda: socket.create_connection(('172.17.0.1', 22), 2))\n"
        "attempt(lambda: socket.create_connection(('1.1.1.1', 443), 2))\n"
        "attempt(lambda: socket.create_connection(('169.254.169.254', 80), 2))\n"
        "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53)))\n"
        "attempt(lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM).connect(('2606:4700::1111', 443)))\n"
        "print([name for _, name in socket.if_nameindex()])"
    )
    expected = ["gaierror", "ConnectionRefusedError", *["OSError"] * 5]
    lines = reply["stdout"].splitlines()
    assert lines[:7] == expected
    assert "eth0" not in lines[7]


def test_the_servers_own_sockets_cannot_be_found(attack: Attack) -> None:
    """Abstract UNIX sockets of the host: the container's network namespace shows none but its own."""
    reply = attack("print([line.split()[-1] for line in open('/proc/net/unix') if '@' in line])")
    assert reply["stdout"] == "[]\n"


FAMILIES = """
import errno, socket
def attempt(*arguments):
    try: socket.socket(*arguments).close()
    except OSError as error: return errno.errorcode[error.errno]
    return 'done'
raw = socket.SOCK_RAW
denied = {
    'AF_INET raw': (2, raw), 'AF_INET6 raw': (10, raw), 'AF_PACKET': (17, raw), 'AF_PACKET dgram': (17, 2),
    'AF_AX25': (3, 2), 'AF_IPX': (4, 2), 'AF_X25': (9, 5), 'AF_KEY': (15, raw, 2), 'AF_RDS': (21, 5),
    'AF_CAN': (29, raw, 1),
    'AF_TIPC': (30, 5), 'AF_BLUETOOTH': (31, raw), 'AF_RXRPC': (33, 2, 2), 'AF_ALG': (38, 5), 'AF_NFC': (39, 5),
    'AF_VSOCK': (40, 1), 'AF_KCM': (41, 2), 'AF_QIPCRTR': (42, 2), 'AF_SMC': (43, 1), 'AF_XDP': (44, raw),
    'AF_MCTP': (45, 2), 'SCTP': (2, 1, 132), 'MPTCP': (2, 1, 262), 'UDPLITE': (2, 2, 136), 'DCCP': (2, 6, 33),
    **{f'AF_NETLINK {protocol}': (16, raw, protocol) for protocol in (1, 2, 4, 6, 9, 10, 11, 12, 15, 16,
    20, 21, 22)},
}
for name, arguments in denied.items():
    print(name, attempt(*arguments), sep=': ')
print('AF_NETLINK route', attempt(16, raw, 0), sep=': ')
print('AF_UNIX', attempt(1, 1), sep=': ')
"""


def test_sockets_of_other_families_are_denied(attack: Attack) -> None:
    """Every family and protocol that reaches into the host's kernel; UNIX and routing netlink are allowed."""
    results = dict(line.split(": ") for line in attack(FAMILIES)["stdout"].splitlines())
    assert (results.pop("AF_UNIX"), results.pop("AF_NETLINK route")) == ("done", "done")
    assert {name: result for name, result in results.items() if result not in ("EPERM", "EACCES")} == {}


SYSCALLS = """
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
column = 0 if platform.machine() == 'x86_64' else 1
table = {
    'mount': (165, 40), 'umount2': (166, 39), 'pivot_root': (155, 41), 'chroot': (161, 51), 'swapon': (167, 224),
    'reboot': (169, 142), 'sethostname': (170, 161), 'init_module': (175, 105), 'finit_module': (313, 273),
    'delete_module': (176, 106), 'kexec_load': (246, 104), 'kexec_file_load': (320, 294), 'acct': (163, 89),
    'settimeofday': (164, 170), 'clock_settime': (227, 112), 'clock_adjtime': (305, 266), 'adjtimex': (159, 171),
    'syslog': (103, 116), 'quotactl': (179, 60), 'setns': (308, 268), 'ptrace': (101, 117), 'kcmp': (312, 272),
    'process_vm_readv': (310, 270), 'process_vm_writev': (311, 271), 'pidfd_getfd': (438, 438),
    'process_madvise': (440, 440), 'bpf': (321, 280), 'perf_event_open': (298, 241), 'userfaultfd': (323, 282),
    'io_uring_setup': (425, 425), 'io_uring_enter': (426, 426), 'io_uring_register': (427, 427),
    'add_key': (248, 217), 'request_key': (249, 218), 'keyctl': (250, 219), 'mbind': (237, 235),
    'set_mempolicy': (238, 237), 'migrate_pages': (256, 238), 'move_pages': (279, 239),
    'fanotify_init': (300, 262),
    'name_to_handle_at': (303, 264), 'open_by_handle_at': (304, 265), 'open_tree': (428, 428),
    'move_mount': (429, 429), 'fsopen': (430, 430), 'fsconfig': (431, 431), 'fsmount': (432, 432),
    'fspick': (433, 433), 'mount_setattr': (442, 442), 'quotactl_fd': (443, 443), 'memfd_secret': (447, 447),
    'clone3': (435, 435), 'vhangup': (153, 58), 'lookup_dcookie': (212, 18), 'nfsservctl': (180, 42),
    'remap_file_pages': (216, 234),
}
if column == 0:
    table |= {'modify_ldt': (154, 0), 'iopl': (172, 0), 'ioperm': (173, 0), 'uselib': (134, 0), 'sysfs': (139, 0),
              'ustat': (136, 0), '_sysctl': (156, 0)}
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments))
    return errno.errorcode[ctypes.get_errno()] if result == -1 else 'done'
for name, numbers in table.items():
    print(name, call(numbers[column], 0, 0, 0, 0, 0, 0), sep=': ')
unshare, clone, personality = ((272, 56, 135), (97, 220, 92))[column]
for name, flag in {'user': 0x10000000, 'mount': 0x20000, 'net': 0x40000000, 'pid': 0x20000000, 'uts': 0x4000000,
                   'ipc': 0x8000000, 'cgroup': 0x2000000, 'time': 0x80}.items():
    print('unshare', name, ': ', call(unshare, flag), sep='')
    if name != 'time':
        print('clone', name, ': ', call(clone, flag | 17, 0, 0, 0, 0), sep='')
print('personality', call(personality, 0x40000), sep=': ')
"""


def test_dangerous_system_calls_are_denied(attack: Attack) -> None:
    """Mounts, namespaces, ptrace, bpf, keys, io_uring, other processes' memory and more: EPERM or ENOSYS."""
    results = dict(line.split(": ") for line in attack(SYSCALLS)["stdout"].splitlines())
    assert len(results) > 60
    assert {name: result for name, result in results.items() if result not in ("EPERM", "ENOSYS")} == {}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is a way to call an x86_64 kernel")
def test_system_calls_of_another_architecture_are_not_made(attack: Attack) -> None:
    """getpid as an x32 program would call it, which filters by number do not see."""
    reply = attack(
        "import ctypes\nprint('before', flush=True)\n"
        "print(ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39)) > 0)",
        timeout=1000,
    )
    assert reply["stdout"] in ("before\n", "before\nFalse\n")
    check_usable(attack)


def test_no_other_user_can_be_taken(attack: Attack) -> None:
    """setuid, setgid, setgroups and chown to root, su by a set-uid program, and a device node."""
    reply = attack(
        "import os, stat\n"
        "open('/tmp/file', 'w').close()\n"
        "for action in (\n"
        "    lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), "
        "lambda: os.setresuid(0, 0, 0),\n"
        "    lambda: os.chown('/tmp/file', 0, 0), lambda: os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, "
        "os.makedev(254, 0)),\n"
        "):\n"
        "    try: action()\n"
        "    except PermissionError: print('denied')\n"
        "    else: print('done')\n"
    )
    assert reply["stdout"] == "denied\n" * 6


def test_the_container_has_no_rights(attack: Attack) -> None:
    """Capabilities, new privileges, seccomp, the user, core dumps, the host's name."""
    reply = attack(
        "import os, resource, socket\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'): print(int(status[name], 16))\n"
        "print(status['NoNewPrivs'].strip(), status['Seccomp'].strip())\n"
        "print(os.getuid() > 1000, os.getgid() > 1000, 0 in os.getgroups())\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), socket.gethostname())\n"
        "print(bool(os.statvfs('/').f_flag & os.ST_RDONLY))"
    )
    assert reply["stdout"] == "0\n" * 5 + "1 2\nTrue True False\n(0, 0) sandbox\nTrue\n"


def test_no_file_of_the_image_gives_another_user(attack: Attack) -> None:
    """A search of the whole image for set-uid and set-gid files, and for files with capabilities."""
    reply = attack(
        "import os\n"
        "found = []\n"
        "for root, folders, files in os.walk('/'):\n"
        "    folders[:] = [f for f in folders if os.path.join(root, f) not in ('/proc', '/sys')]\n"
        "    for name in files:\n"
        "        path = os.path.join(root, name)\n"
        "        try:\n"
        "            if os.lstat(path).st_mode & 0o6000: found.append(path)\n"
        "        except OSError: pass\n"
        "print(found)"
    )
    assert reply["stdout"] == "[]\n"


def test_every_container_has_namespaces_of_its_own(attack: Attack, other: Client) -> None:
    """IPC, mount, network, PID, UTS and cgroup: neither the host's nor another session's."""
    names = ("ipc", "mnt", "net", "pid", "uts", "cgroup")
    code = f"import os\nfor name in {names}: print(os.readlink('/proc/self/ns/' + name))"
    mine = attack(code)["stdout"].split()
    reply = other.run(code)
    other.delete(reply["session_id"])
    theirs = reply["stdout"].split()
    hosts = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    assert len(mine) == 6
    assert not set(mine) & set(theirs)
    assert not set(mine) & set(hosts)


def test_sessions_run_as_different_users(attack: Attack, other: Client) -> None:
    """The user ids of two containers: limits that the host's kernel counts by user are not shared."""
    reply = other.run("import os; print(os.getuid())")
    other.delete(reply["session_id"])
    assert attack("import os; print(os.getuid())")["stdout"] != reply["stdout"]


def test_limits_cannot_be_raised(attack: Attack) -> None:
    """Hard limits, the priority, the OOM score, cgroup files and kernel settings."""
    reply = attack(
        "import os, resource\n"
        "for action in (\n"
        "    lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100_000, 100_000)),\n"
        "    lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)),\n"
        "    lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),\n"
        "    lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),\n"
        "    lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),\n"
        "    lambda: open('/proc/self/oom_score_adj', "
        "'w').write('-1000') and open('/proc/self/oom_score_adj').close(),\n"
        "    lambda: open('/proc/sys/kernel/core_pattern', 'w'),\n"
        "    lambda: open('/proc/sysrq-trigger', 'w'),\n"
        "    lambda: os.mkdir('/sys/fs/cgroup/mine'),\n"
        "):\n"
        "    try: action()\n"
        "    except (OSError, ValueError): print('denied')\n"
        "    else: print('done')\n"
    )
    assert reply["stdout"].split().count("denied") >= 8
    assert reply["stdout"].split()[-3:] == ["denied"] * 3
