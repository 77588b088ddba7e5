"""``POST /exec``: what code puts out and how it ends, sessions that keep their kernel, bounds."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest

from tests.server import PROMPT, Client, Json, Server, in_background, wait_for

Run = Callable[..., Json]
StartServer = Callable[..., Server]


def kinds(reply: Json) -> list[str]:
    """The outputs in short: a stream's name and text, else the type."""
    return [
        f"{output['name']}: {output['text']}" if output["output_type"] == "stream" else output["output_type"]
        for output in reply["outputs"]
    ]


# --- outputs


def test_the_reply_has_the_fields_that_clients_read(shell: Run) -> None:
    """A print: every field of the reply, with its type and value."""
    reply = shell("print('hello')")
    assert reply["duration_ms"] > 0
    assert reply.pop("duration_ms") < 5000
    session_id = reply.pop("session_id")
    assert isinstance(session_id, str)
    assert reply.pop("execution_count") >= 1
    assert reply.pop("runtime_status") in ("new", "reused")
    assert reply.pop("runtime_session_id") == session_id
    state = reply.pop("state")
    assert (state["captured"], state["pending"], state["error"], state["skipped"]) == (True, False, None, [])
    assert min(state["version"], state["bytes"]) > 0
    assert reply == {
        "stdout": "hello\n",
        "stderr": "",
        "files": [],
        "status": "ok",
        "exit_code": 0,
        "outputs": [{"output_type": "stream", "name": "stdout", "text": "hello\n"}],
        "truncated": [],
    }


def test_outputs_come_in_the_order_in_which_they_were_made(shell: Run) -> None:
    """Prints to both streams, a display, descriptors, a subprocess and a result, mixed."""
    reply = shell(
        "import os, subprocess, sys\n"
        "from IPython.display import HTML, display\n"
        "print('one')\n"
        "display(HTML('<b>two</b>'))\n"
        "print('three', file=sys.stderr)\n"
        "print('four')\n"
        "os.write(1, b'five\\n')\n"
        "print('six')\n"
        "_ = subprocess.run(['echo', 'seven'])\n"
        "6 * 7"
    )
    assert kinds(reply) == [
        "stdout: one\n",
        "display_data",
        "stderr: three\n",
        "stdout: four\nfive\nsix\nseven\n",
        "execute_result",
    ]
    assert reply["outputs"][1]["data"]["text/html"] == "<b>two</b>"
    assert reply["outputs"][-1]["data"] == {"text/plain": "42"}
    assert reply["stdout"] == "one\nfour\nfive\nsix\nseven\n"
    assert reply["stderr"] == "three\n"


def test_outputs_are_valid_notebook_outputs(shell: Run) -> None:
    """Each type of output has the keys of nbformat 4 and no others."""
    reply = shell("from IPython.display import display\nprint(1)\ndisplay(2)\n3")
    assert [sorted(output) for output in reply["outputs"]] == [
        ["name", "output_type", "text"],
        ["data", "metadata", "output_type"],
        ["data", "execution_count", "metadata", "output_type"],
    ]
    assert reply["outputs"][2]["execution_count"] == reply["execution_count"]


def test_the_last_expression_is_shown_when_nothing_was_printed(shell: Run) -> None:
    """``6 * 7`` as the last line."""
    assert shell("x = 6\nx * 7")["stdout"] == "42\n"


def test_the_last_expression_is_not_added_to_what_was_printed(shell: Run) -> None:
    """A print, then an expression: stdout is the print, the expression is an output."""
    reply = shell("print('printed')\n6 * 7")
    assert reply["stdout"] == "printed\n"
    assert kinds(reply) == ["stdout: printed\n", "execute_result"]


def test_the_last_expression_is_not_shown_when_that_is_off(start_server: StartServer) -> None:
    """SHOW_LAST_EXPRESSION=false: the result is an output and not in stdout."""
    server = start_server({"SHOW_LAST_EXPRESSION": "false"}).wait_ready()
    reply = server.client().run("6 * 7")
    assert reply["stdout"] == ""
    assert reply["outputs"][0]["data"] == {"text/plain": "42"}


def test_a_display_can_be_updated_and_cleared(shell: Run) -> None:
    """An updated display shows its last state; what clear_output removed is gone."""
    reply = shell(
        "from IPython.display import clear_output, display\n"
        "display('gone')\nclear_output()\n"
        "handle = display('before', display_id=True)\nhandle.update('after')"
    )
    assert [output["data"]["text/plain"] for output in reply["outputs"]] == ["'after'"]


def test_text_of_any_script_comes_through(shell: Run) -> None:
    """Text outside ASCII, outside the BMP, with a NUL and with a lone surrogate."""
    reply = shell("print('日本 العربية 😀\\x00.')\nprint('\\ud800')")
    assert reply["stdout"] == "日本 العربية 😀\x00.\n?\n"


def test_bytes_that_are_no_utf8_are_replaced(shell: Run) -> None:
    """Raw bytes to descriptor 1."""
    assert shell("import os; _ = os.write(1, b'a\\xffb\\n')")["stdout"] == "a\ufffdb\n"


def test_writes_to_the_descriptors_are_output(shell: Run) -> None:
    """os.write to 1 and 2, and sys.stdout.buffer."""
    reply = shell(
        "import os, sys\n_ = os.write(1, b'one\\n')\n_ = os.write(2, b'two\\n')\n"
        "_ = sys.stdout.buffer.write(b'raw\\n')"
    )
    assert (reply["stdout"], reply["stderr"]) == ("one\nraw\n", "two\n")


def test_the_output_of_subprocesses_is_output(shell: Run) -> None:
    """subprocess, os.system and a shell escape."""
    reply = shell(
        "import os, subprocess\n"
        "_ = subprocess.run('echo out; echo err >&2', shell=True)\n"
        "_ = os.system('echo system')\n"
        "!echo escape"
    )
    assert (reply["stdout"], reply["stderr"]) == ("out\nsystem\nescape\n", "err\n")


def test_nothing_is_left_over_for_the_next_call(shell: Run) -> None:
    """200 times in turn: what one call prints at its very end is in its own reply."""
    for number in range(100):
        assert shell(f"import os; _ = os.write(1, b'{number}\\n')")["stdout"] == f"{number}\n"
        assert shell(f"print({number})")["stdout"] == f"{number}\n"


def test_output_of_threads_is_output(shell: Run) -> None:
    """Five threads print."""
    reply = shell(
        "import threading\n"
        "threads = [threading.Thread(target=print, args=(f't{n}\\n',), kwargs={'end': ''}) for n in range(5)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()"
    )
    assert sorted(reply["stdout"].split()) == ["t0", "t1", "t2", "t3", "t4"]


# --- errors


def test_an_error_shows_the_frames_of_the_code_only(shell: Run) -> None:
    """An error below two functions of the code, raised inside a library."""
    reply = shell(
        "import json\ndef outer():\n    return inner()\ndef inner():\n    return json.loads('{')\nouter()"
    )
    assert (reply["status"], reply["exit_code"]) == ("error", 1)
    assert reply["stderr"].startswith("Traceback (most recent call last):\n")
    assert [line.strip() for line in reply["stderr"].split("\n") if line.startswith("    ")] == [
        "outer()",
        "return inner()",
        "return json.loads('{')",
    ] or reply["stderr"].count('  File "') == 3
    assert "json/decoder.py" not in reply["stderr"]
    assert "kernelgate" not in reply["stderr"]
    assert "ipykernel" not in reply["stderr"]
    assert reply["stderr"].rstrip().split("\n")[-1].startswith("json.decoder.JSONDecodeError: ")
    error = reply["outputs"][-1]
    assert (error["output_type"], error["ename"]) == ("error", "JSONDecodeError")
    assert "\x1b" not in reply["stderr"]


def test_a_syntax_error_says_where_it_is(shell: Run) -> None:
    """Two lines, the second of which cannot be parsed: nothing runs."""
    reply = shell("print('never')\nx = = 1")
    assert (reply["status"], reply["exit_code"], reply["stdout"]) == ("error", 1, "")
    assert "line 2" in reply["stderr"]
    assert reply["stderr"].rstrip().endswith("SyntaxError: invalid syntax")


def test_what_was_printed_before_an_error_is_kept(shell: Run) -> None:
    """A print, then an error."""
    reply = shell("print('before')\n1 / 0")
    assert reply["stdout"] == "before\n"
    assert reply["stderr"].rstrip().endswith("ZeroDivisionError: division by zero")


def test_warnings_go_to_stderr(shell: Run) -> None:
    """warnings.warn."""
    reply = shell("import warnings\nwarnings.warn('beware')")
    assert reply["status"] == "ok"
    assert "UserWarning: beware" in reply["stderr"]


@pytest.mark.parametrize(
    ("call", "status", "exit_code", "stderr"),
    [
        ("sys.exit()", "ok", 0, ""),
        ("sys.exit(0)", "ok", 0, ""),
        ("sys.exit(3)", "error", 3, ""),
        ("sys.exit('no way')", "error", 1, "no way\n"),
        ("exit(4)", "error", 4, ""),
        ("quit()", "ok", 0, ""),
        ("raise SystemExit(5)", "error", 5, ""),
        ("sys.exit(-1)", "error", 255, ""),
        ("sys.exit(256)", "ok", 0, ""),
    ],
)
def test_leaving_gives_the_exit_code_of_a_script(
    shell: Run, call: str, status: str, exit_code: int, stderr: str
) -> None:
    """sys.exit and its like: nothing after it runs, the kernel lives on."""
    shell("kept = 1")
    reply = shell(f"import sys\nprint('before')\n{call}\nprint('after')")
    assert (reply["status"], reply["exit_code"]) == (status, exit_code)
    assert (reply["stdout"], reply["stderr"]) == ("before\n", stderr)
    assert shell("print(kept)")["stdout"] == "1\n"


def test_os_exit_ends_the_kernel_and_says_so(run: Run) -> None:
    """os._exit(3): the exit code is 3, the next call gets a new kernel."""
    run("x = 1")
    reply = run("import os\nprint('before', flush=True)\nos._exit(3)")
    assert (reply["status"], reply["exit_code"], reply["stdout"]) == ("killed", 3, "before\n")
    assert "exit code 3" in reply["stderr"]
    assert "goes on from what was saved last" in reply["stderr"]
    after = run("print(x)")
    assert (after["stdout"], after["runtime_status"]) == ("1\n", "restored")


def test_a_crash_of_the_interpreter_is_told(run: Run) -> None:
    """SIGSEGV: exit code 139 as in a shell."""
    reply = run("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert (reply["status"], reply["exit_code"]) == ("killed", 139)
    assert run("print(1)")["stdout"] == "1\n"


# --- what works in a script works here


def test_processes_pools_and_threads_work(run: Run) -> None:
    """multiprocessing.Process, Pool, ProcessPoolExecutor, ThreadPoolExecutor; children print."""
    reply = run(
        "import multiprocessing, sys\n"
        "from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor\n"
        "def square(x):\n    return x * x\n"
        "def say():\n    print('child')\n"
        "child = multiprocessing.Process(target=say)\n"
        "child.start(); child.join()\n"
        "with multiprocessing.Pool(2) as pool:\n    print(pool.map(square, range(4)))\n"
        "with ProcessPoolExecutor(2) as pool:\n    print(list(pool.map(square, range(4))))\n"
        "with ThreadPoolExecutor(2) as pool:\n    print(list(pool.map(square, range(4))))\n"
        "print(child.exitcode)"
    )
    assert reply["stdout"] == "child\n[0, 1, 4, 9]\n[0, 1, 4, 9]\n[0, 1, 4, 9]\n0\n", reply["stderr"]
    assert (reply["status"], reply["stderr"]) == ("ok", "")


def test_a_forked_child_ends_with_its_cell(run: Run) -> None:
    """os.fork without an exit in the child: the child does not become a second kernel."""
    reply = run("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('parent' if pid else 'child')")
    assert sorted(reply["stdout"].split()) == ["child", "parent"]
    assert run("print('once')")["stdout"] == "once\n"


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    print('done')\nasyncio.run(main())",
        "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    print('done')\nawait main()",
        "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    print('done')\n"
        "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())\nloop.close()",
        "import asyncio, warnings\nwarnings.simplefilter('ignore')\n"
        "async def main():\n    await asyncio.sleep(0)\n"
        "    print('done')\nasyncio.get_event_loop().run_until_complete(main())",
        "import asyncio\nasync def main():\n    async with asyncio.TaskGroup() as group:\n"
        "        group.create_task(asyncio.sleep(0))\n    print('done')\nwith asyncio.Runner() as runner:\n"
        "    runner.run(main())",
    ],
    ids=["asyncio.run", "top-level await", "own loop", "current loop", "Runner"],
)
def test_asyncio_works_in_every_way(shell: Run, code: str) -> None:
    """The ways to start a coroutine; twice, as the second use finds what the first left."""
    for _ in range(2):
        reply = shell(code)
        assert (reply["status"], reply["stdout"], reply["stderr"]) == ("ok", "done\n", "")


def test_the_code_is_the_main_program(shell: Run) -> None:
    """__name__, and what argparse shows as the program."""
    assert shell("if __name__ == '__main__':\n    print('main')")["stdout"] == "main\n"


@pytest.mark.parametrize(
    ("args", "argv"),
    [
        (["a", "b c"], ["a", "b c"]),
        ("one text", ["one text"]),
        (7, ["7"]),
        ({"x": [1, None]}, ['{"x": [1, null]}']),
        (["a", 1, True, {"b": 2}], ["a", "1", "true", '{"b": 2}']),
        ([], []),
        (None, []),
        (["é", ""], ["é", ""]),
    ],
)
def test_args_become_the_command_line(shell: Run, args: object, argv: list[str]) -> None:
    """Lists, texts, numbers and objects."""
    reply = shell("import json, sys; print(json.dumps(sys.argv[1:]))", args=args)
    assert json.loads(reply["stdout"]) == argv


def test_args_do_not_stay_for_the_next_call(shell: Run) -> None:
    """A call with args, then one without."""
    shell("pass", args=["a"])
    assert shell("import sys; print(sys.argv[1:])")["stdout"] == "[]\n"


def test_input_fails_at_once_and_says_why(shell: Run) -> None:
    """input() and getpass: nobody answers."""
    for code, reason in (("input('name? ')", "nobody to ask"), ("import getpass; getpass.getpass()", "input")):
        started = time.monotonic()
        reply = shell(code)
        assert time.monotonic() - started < 3
        assert (reply["status"], reply["exit_code"]) == ("error", 1)
        assert reason in reply["stderr"].rstrip().split("\n")[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.stdout.close()\nsys.stderr.close()",
        "import os\nos.close(1)\nos.close(2)",
        "import sys\nsys.stdout = sys.stderr = None",
        "import os\nnull = os.open('/dev/null', os.O_WRONLY)\nos.dup2(null, 1)\nos.dup2(null, 2)",
        "import contextlib, sys, io\nsys.stdout = io.StringIO()",
        "import os\nos.close(0)",
    ],
)
def test_a_closed_stdout_is_open_again_in_the_next_call(run: Run, code: str) -> None:
    """Streams and descriptors closed or replaced, and not put back."""
    run(code)
    reply = run(
        "import os, sys\nprint('out')\nprint('err', file=sys.stderr)\n_ = os.write(1, b'raw\\n')\n"
        "_ = os.system('echo system')"
    )
    assert (reply["status"], reply["stdout"], reply["stderr"]) == ("ok", "out\nraw\nsystem\n", "err\n")


def test_a_plot_is_a_picture(run: Run) -> None:
    """pyplot with and without show()."""
    for end in ("plt.show()", ""):
        reply = run(f"import matplotlib.pyplot as plt\nplt.plot([1, 2, 4])\n{end}")
        pictures = [output for output in reply["outputs"] if "image/png" in output.get("data", {})]
        assert len(pictures) == 1
        assert pictures[0]["data"]["image/png"].startswith("iVBORw0KGgo")
        assert (reply["status"], reply["stderr"]) == ("ok", "")


def test_plots_have_glyphs_for_the_scripts_of_the_world(run: Run) -> None:
    """A title in each script; matplotlib warns of a glyph that no font has."""
    reply = run(
        "import matplotlib.pyplot as plt\n"
        "figure, axes = plt.subplots()\n"
        "axes.set_title('中文 日本語 한국어 العربية हिन्दी ไทย עברית Ελληνικά Кириллица')\n"
        "axes.set_xlabel('தமிழ் বাংলা తెలుగు ქართული አማርኛ ≤ ∑ ♥ ☃')\n"
        "figure.savefig('/tmp/plot.png')\n"
        "plt.close()"
    )
    assert (reply["status"], reply["stderr"]) == ("ok", "")


def test_the_data_libraries_can_be_imported(run: Run) -> None:
    """All that user code may count on, in one go, without a warning."""
    modules = (
        "numpy pandas scipy.stats matplotlib seaborn sklearn.linear_model statsmodels.api sympy networkx PIL "
        "plotly.express openpyxl xlsxwriter pyarrow docx pptx pypdf reportlab bs4 lxml requests tabulate dill"
    )
    code = f"import importlib\nfor name in {modules!r}.split():\n    importlib.import_module(name)\nprint('all')"
    reply = run(code)
    assert (reply["stdout"], reply["stderr"], reply["status"]) == ("all\n", "", "ok")


def test_the_work_folder_can_be_written_to(run: Run) -> None:
    """The current folder is /mnt/data; files stay in the session."""
    run("from pathlib import Path\nPath('note.txt').write_text('kept')")
    assert run("print(Path.cwd(), Path('/mnt/data/note.txt').read_text())")["stdout"] == "/mnt/data kept\n"


# --- time and memory


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time; time.sleep(60)", "import asyncio; await asyncio.sleep(60)"]
)
def test_a_timeout_interrupts_and_keeps_the_variables(run: Run, code: str) -> None:
    """A busy loop, a sleep and an await; stopped after 700 ms."""
    run("kept = 'kept'")
    reply = run(f"print('before')\n{code}", timeout=700)
    assert (reply["status"], reply["exit_code"], reply["stdout"]) == ("timeout", 124, "before\n")
    assert 700 <= reply["duration_ms"] < 2500, reply["stderr"]
    assert "Time limit exceeded: stopped after" in reply["stderr"]
    assert "lost" not in reply["stderr"]
    after = run("print(kept)")
    assert (after["stdout"], after["runtime_status"]) == ("kept\n", "reused")


@pytest.mark.parametrize(
    "code",
    [
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)",
        "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass",
        "sum(range(10**13))",
    ],
    ids=["ignored", "caught", "in C"],
)
def test_a_timeout_kills_what_ignores_the_interrupt(run: Run, code: str) -> None:
    """The answer says that the kernel was killed; the next call gets a new one."""
    run("kept = 1")
    reply = run(code, timeout=500)
    assert (reply["status"], reply["exit_code"]) == ("timeout", 124)
    assert "did not react and was killed" in reply["stderr"]
    assert 2000 < reply["duration_ms"] < 6000
    after = run("print(kept)")
    assert (after["stdout"], after["runtime_status"]) == ("1\n", "restored")


def test_the_servers_time_limit_is_the_most_that_a_call_gets(start_server: StartServer) -> None:
    """MAX_EXECUTION_TIME=1: a call without timeout and one that asks for a minute."""
    client = start_server({"MAX_EXECUTION_TIME": "1"}).wait_ready().client()
    for fields in ({}, {"timeout": 60_000}):
        reply = client.run("import time; time.sleep(30)", session_id="a", **fields)
        assert reply["status"] == "timeout"
        assert 1000 <= reply["duration_ms"] < 3000


def test_running_out_of_memory_is_told_from_a_timeout(run: Run) -> None:
    """2 GiB in one process with half a GiB of memory."""
    reply = run("print('before', flush=True)\nx = b'x' * (2 << 30)", timeout=9000)
    assert (reply["status"], reply["exit_code"]) == ("out_of_memory", 137)
    assert reply["stdout"] == "before\n"
    assert "Out of memory" in reply["stderr"]
    after = run("print(1)")
    assert (after["stdout"], after["runtime_status"]) == ("1\n", "new")


EAT = (
    "import multiprocessing\n"
    "def eat():\n    x = b'x' * (700 << 20)\n"
    "children = [multiprocessing.Process(target=eat) for _ in range(2)]\n"
    "for child in children: child.start()\n"
    "for child in children: child.join()\n"
    "print([child.exitcode for child in children])"
)


def test_children_that_run_out_of_memory_do_not_take_the_kernel_along(run: Run) -> None:
    """Two children of 700 MB each: they are killed, the parent sees it, the variables are kept."""
    run("kept = 1")
    reply = run(EAT)
    assert (reply["status"], reply["stdout"]) == ("ok", "[-9, -9]\n")
    after = run("print(kept)")
    assert (after["stdout"], after["runtime_status"]) == ("1\n", "reused")


def test_a_child_that_ran_out_of_memory_is_not_blamed_for_a_later_end(run: Run) -> None:
    """A child is killed for want of memory; a later call leaves with os._exit(3)."""
    assert run(EAT)["status"] == "ok"
    reply = run("import os; os._exit(3)")
    assert (reply["status"], reply["exit_code"]) == ("killed", 3)


def test_waiting_for_a_child_that_ran_out_of_memory_tells_of_the_memory(run: Run) -> None:
    """A pool whose worker is killed waits for ever: when the time is over the answer names the memory."""
    reply = run(
        "import multiprocessing\n"
        "def eat(_):\n    return len(b'x' * (700 << 20))\n"
        "with multiprocessing.Pool(1) as pool:\n    print(pool.map(eat, [1]))",
        timeout=3000,
    )
    assert reply["status"] in ("out_of_memory", "timeout")
    assert "memory" in reply["stderr"].lower()


# --- the connection


def send_exec(server: Server, body: Json) -> socket.socket:
    """Send ``POST /exec`` on a connection of its own."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    key = server.client().key
    head = f"POST /exec HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def test_a_long_run_sends_white_space_ahead_of_the_answer(server: Server, client: Client, session_id: str) -> None:
    """A run of 3.5 s with a space each second: bytes come while it runs, the body is JSON."""
    client.run("pass", session_id=session_id)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    started = time.monotonic()
    body = json.dumps(client.body("import time; time.sleep(3.5); print('done')", session_id=session_id))
    connection.request("POST", "/exec", body, {"x-api-key": client.key})
    answer = connection.getresponse()
    first = answer.read(1)
    first_after = time.monotonic() - started
    rest = answer.read()
    connection.close()
    assert (answer.status, first) == (200, b" ")
    assert first_after < 2.5
    assert time.monotonic() - started > 3.4
    assert (first + rest).startswith(b"   {")
    assert json.loads(first + rest)["stdout"] == "done\n"


def test_a_client_that_leaves_cancels_its_run(server: Server, client: Client, session_id: str) -> None:
    """A run of 9 s that writes a mark at its end; its client leaves. The next call comes soon."""
    client.run("kept = 1", session_id=session_id)
    code = (
        "open('began', 'w').close()\nimport time\nfor _ in range(90): time.sleep(0.1)\nopen('ended', 'w').close()"
    )
    connection = send_exec(server, client.body(code, session_id=session_id))
    wait_for(lambda: client.session(session_id)["state"] == "busy")
    wait_for(lambda: client.health()["executions"]["running"] == 1)
    time.sleep(0.5)  # the code has begun by then; that it has is checked below
    connection.close()
    started = time.monotonic()
    reply = client.run("import os; print(kept, sorted(os.listdir()))", session_id=session_id)
    assert time.monotonic() - started < PROMPT
    assert (reply["stdout"], reply["runtime_status"]) == ("1 ['began']\n", "reused")
    assert client.health()["executions"] == {"running": 0, "queued": 0}


def test_a_client_that_leaves_ends_a_run_that_ignores_the_interrupt(
    server: Server, client: Client, session_id: str
) -> None:
    """The same with a run that catches everything: its kernel is killed, the next call has another one."""
    client.run("kept = 1", session_id=session_id)
    code = "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"
    connection = send_exec(server, client.body(code, session_id=session_id))
    wait_for(lambda: client.health()["executions"]["running"] == 1)
    time.sleep(0.3)
    connection.close()
    started = time.monotonic()
    reply = client.run("print(kept)", session_id=session_id)
    assert time.monotonic() - started < PROMPT
    assert (reply["stdout"], reply["runtime_status"]) == ("1\n", "restored")


# --- sessions and their kernels


def test_a_session_keeps_its_variables(run: Run) -> None:
    """Three calls: the first has a new kernel, the others go on with it, the count grows."""
    replies = [run("x = 1"), run("x += 1"), run("print(x)")]
    assert [reply["runtime_status"] for reply in replies] == ["new", "reused", "reused"]
    assert [reply["execution_count"] for reply in replies] == [1, 2, 3]
    assert replies[-1]["stdout"] == "2\n"


def test_a_call_without_a_session_gets_a_new_one(client: Client) -> None:
    """Two calls without an id: two ids of 32 letters and digits, nothing shared."""
    first, second = client.run("x = 1"), client.run("print('x' in globals())")
    try:
        assert first["session_id"] != second["session_id"]
        assert len(first["session_id"]) == 32
        assert first["session_id"].isalnum()
        assert (second["stdout"], second["runtime_status"]) == ("False\n", "new")
    finally:
        client.delete(first["session_id"])
        client.delete(second["session_id"])


def test_a_session_runs_one_call_at_a_time_in_order(client: Client, session_id: str) -> None:
    """Six calls, sent 100 ms apart, each of 200 ms: they run one after the other in the order of their coming."""
    client.run("log = []", session_id=session_id)
    futures = []
    for number in range(6):
        code = f"import time\nlog.append('begin {number}')\ntime.sleep(0.2)\nlog.append('end {number}')"
        futures.append(in_background(client.run, code, session_id=session_id))
        time.sleep(0.1)
    replies = [future.result(30) for future in futures]
    assert [reply["execution_count"] for reply in replies] == [2, 3, 4, 5, 6, 7]
    log = client.printed("print('\\n'.join(log))", session_id=session_id).splitlines()
    assert log == [f"{word} {number}" for number in range(6) for word in ("begin", "end")]


def test_different_sessions_run_at_the_same_time(client: Client) -> None:
    """Two sessions sleep for 2 s at once: both are done long before 4 s."""
    for session_id in ("at-once-1", "at-once-2"):
        client.run("import time", session_id=session_id)
    started = time.monotonic()
    futures = [in_background(client.run, "time.sleep(2)", session_id=name) for name in ("at-once-1", "at-once-2")]
    for future in futures:
        assert future.result(30)["status"] == "ok"
    assert time.monotonic() - started < 3.5
    for session_id in ("at-once-1", "at-once-2"):
        client.delete(session_id)


def test_without_an_idle_time_each_call_has_a_new_kernel(start_server: StartServer) -> None:
    """KERNEL_IDLE_SECONDS=0: the kernel's container goes after the call."""
    server = start_server({"KERNEL_IDLE_SECONDS": "0", "CONTAINER_POOL_PY_MIN": "0"}).wait_ready()
    client = server.client()
    assert client.run("x = 1", session_id="a")["runtime_status"] == "new"
    wait_for(lambda: server.containers() == [])
    assert client.session("a")["state"] == "dormant"
    reply = client.run("print(x)", session_id="a")
    assert (reply["stdout"], reply["runtime_status"]) == ("1\n", "restored")
    assert client.session("a")["executions"] == 2


def test_a_kernel_ends_after_its_idle_time(start_server: StartServer) -> None:
    """KERNEL_IDLE_SECONDS=1: at once the kernel is reused, later it is gone and the session is still there."""
    server = start_server({"KERNEL_IDLE_SECONDS": "1", "CONTAINER_POOL_PY_MIN": "0"}).wait_ready()
    client = server.client()
    client.run("x = 1", session_id="a")
    assert client.run("print(x)", session_id="a")["runtime_status"] == "reused"
    wait_for(lambda: server.containers() == [])
    assert client.session("a")["state"] == "dormant"
    assert client.health()["kernels"] == 0
    assert client.run("pass", session_id="a")["runtime_status"] == "restored"


def test_the_kernel_that_idled_longest_gives_way(start_server: StartServer) -> None:
    """MAX_LIVE_KERNELS=2 and three sessions: the first one's kernel goes, the others keep theirs."""
    server = start_server({"MAX_LIVE_KERNELS": "2", "CONTAINER_POOL_PY_MIN": "0"}).wait_ready()
    client = server.client()
    for session_id in ("a", "b", "a", "c"):
        client.run("x = 1", session_id=session_id)
    wait_for(lambda: len(server.containers()) == 2)
    states = {name: client.session(name)["state"] for name in "abc"}
    assert states == {"a": "idle", "b": "dormant", "c": "idle"}
    assert client.run("print(x)", session_id="a")["stdout"] == "1\n"
    assert client.run("pass", session_id="b")["runtime_status"] == "restored"


# --- bounds


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_cut_stream_is_said_to_be_cut(shell: Run, name: str) -> None:
    """1.5 million characters: the first million comes, and the reply says so in two places."""
    reply = shell(f"import sys\nfor _ in range(150): _ = sys.{name}.write('x' * 9999 + '\\n')")
    assert reply["status"] == "ok"
    assert reply["truncated"] == [name]
    text = "".join(output["text"] for output in reply["outputs"] if output.get("name") == name)
    assert len(text) == 1_000_000
    assert f"{name} length exceeded" in reply["stderr"]


def test_a_stream_at_its_limit_is_not_cut(shell: Run) -> None:
    """Exactly a million characters."""
    reply = shell("print('x' * 999_999)")
    assert (len(reply["stdout"]), reply["truncated"], reply["stderr"]) == (1_000_000, [], "")


def test_left_out_outputs_are_said_to_be_left_out(shell: Run) -> None:
    """1100 displays: the first 1000 come."""
    reply = shell("from IPython.display import display\nfor n in range(1100): display(n)")
    assert len(reply["outputs"]) == 1000
    assert reply["outputs"][-1]["data"]["text/plain"] == "999"
    assert reply["truncated"] == ["outputs"]
    assert "left out" in reply["stderr"]


def test_an_output_that_is_too_large_is_said_to_be_left_out(shell: Run) -> None:
    """A display of 25 MB; the small one behind it comes."""
    reply = shell(
        "from IPython.display import display\n"
        "display({'text/plain': 'x' * 25_000_000}, raw=True)\ndisplay('small')"
    )
    assert [output["data"]["text/plain"] for output in reply["outputs"]] == ["'small'"]
    assert reply["truncated"] == ["outputs"]


def test_what_is_over_the_number_at_once_waits_and_is_then_refused(start_server: StartServer) -> None:
    """Two places, a queue of 2 s: short calls wait; one that waits too long gets 429."""
    settings = {"MAX_CONCURRENT_EXECUTIONS": "2", "QUEUE_TIMEOUT_SECONDS": "2", "CONTAINER_POOL_PY_MIN": "3"}
    client = start_server(settings).wait_ready().client()
    for name in "abc":
        client.run("import time", session_id=name)
    long = [in_background(client.run, "time.sleep(1)", session_id=name) for name in "ab"]
    wait_for(lambda: client.health()["executions"]["running"] == 2)
    assert client.run("print(1)", session_id="c")["stdout"] == "1\n"
    assert [future.result(30)["status"] for future in long] == ["ok", "ok"]
    long = [in_background(client.run, "time.sleep(3)", session_id=name) for name in "ab"]
    wait_for(lambda: client.health()["executions"]["running"] == 2)
    started = time.monotonic()
    refused = client.post(client.body("print(1)", session_id="c"))
    assert 1.5 < time.monotonic() - started < 3
    assert (refused.status_code, refused.json()["error"]) == (429, "rate_limited")
    assert refused.json()["retry_after_seconds"] >= 1
    assert refused.headers["Retry-After"] == str(refused.json()["retry_after_seconds"])
    assert [future.result(30)["status"] for future in long] == ["ok", "ok"]


def test_no_thread_of_the_tests_is_left() -> None:
    """The requests of this module have all been answered."""
    wait_for(lambda: threading.active_count() == 1)
