"""The state of sessions over HTTP: what comes back in another kernel, and what the replies say of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.server import KEY, OTHER_KEY, Client, Json, Server, Servers, new_id, wait_for

MB = 1 << 20

DIE = "import os\nos.kill(os.getpid(), 9)"


@pytest.fixture(scope="module")
def keeper(servers: Servers) -> Iterator[Server]:
    """A server whose kernels stay until a test ends them. No error of its own may be in its log."""
    environment = {"CONTAINER_POOL_PY_MIN": "2", "MAX_EXECUTION_TIME": "20", "STATE_SAVE_TIMEOUT_SECONDS": "5"}
    with servers.serving(environment) as server:
        yield server


@pytest.fixture
def client(keeper: Server) -> Client:
    return keeper.client()


@pytest.fixture
def session_id(client: Client) -> Iterator[str]:
    session_id = new_id()
    yield session_id
    client.delete(session_id)


@pytest.fixture
def run(client: Client, session_id: str) -> Callable[..., Json]:
    return lambda code, **fields: client.run(code, session_id=session_id, **fields)


def lose_kernel(client: Client, session_id: str) -> None:
    """End the kernel of a session from inside, in an execution of its own."""
    reply = client.run(DIE, session_id=session_id)
    assert reply["status"] == "killed", reply


def in_a_fork(client: Client, session_id: str, code: str) -> str:
    """Return what code prints that goes on from what is stored of a session, whatever has become of its kernel."""
    forks = client.request("POST", f"/sessions/{session_id}/fork", json={}).json()["sessions"]
    fork = forks[0]["session_id"]
    try:
        reply = client.run(code, session_id=fork)
        assert reply["runtime_status"] == "restored", reply
        return str(reply["stdout"])
    finally:
        client.delete(fork)


def wait_dormant(client: Client, session_id: str) -> None:
    """Wait until the server has removed the session's kernel by itself."""
    wait_for(lambda: client.session(session_id)["state"] == "dormant")


def is_whole(reply: Json) -> bool:
    """Whether the reply's state says that all was saved."""
    state = reply["state"]
    return state["captured"] and not state["error"] and not state["skipped"] and not state["files"]["skipped"]


def folder_bytes(folder: Path) -> int:
    """Return the bytes of the files below ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def blob_files(store: Path) -> set[Path]:
    """Return the files of the larger blobs in a store."""
    return {path for path in (store / "blobs").rglob("*") if path.is_file()}


# --- what comes back

CASES: dict[str, tuple[str, str]] = {
    "imports and aliases": (
        "import math, collections.abc, os.path as osp\nfrom itertools import chain as link, count",
        "(math.floor(2.5), osp.basename('/a/b'), list(link([1], [2])), collections.abc.Sized.__name__, "
        "next(count(3))) == (2, 'b', [1, 2], 'Sized', 3)",
    ),
    "functions with globals": (
        "rate = 3\ndef scaled(n, *, by=2): return n * by * rate",
        "scaled(2) == 12 and scaled.__globals__ is globals() and scaled(1, by=5) == 15",
    ),
    "closures that share a cell": (
        "def make_counter():\n    n = 0\n    def up():\n        nonlocal n\n        n += 1\n        return n\n"
        "    def read(): return n\n    return up, read\nup, read = make_counter()\n_ = up()",
        "up() == 2 and read() == 2 and up() == 3 and read() == 3",
    ),
    "lambdas": ("double = lambda x: 2 * x\nfns = [lambda x, k=k: x + k for k in range(3)]",
                "double(4) == 8 and [f(1) for f in fns] == [1, 2, 3]"),
    "classes and instances": (
        "class Base:\n    made = 0\n    def __init__(self, x):\n        self.x = x\n        Base.made += 1\n"
        "    @property\n    def twice(self): return 2 * self.x\n"
        "    @classmethod\n    def of(cls, x): return cls(x)\n"
        "class Child(Base):\n    def __init__(self, x):\n        super().__init__(x)\n        self.kin = [self]\n"
        "child = Child.of(4)",
        "child.twice == 8 and type(child) is Child and Base.made == 1 and child.kin[0] is child"
        " and Child(1).twice == 2 and isinstance(child, Base)",
    ),
    "recursion": ("def factorial(n): return 1 if n < 2 else n * factorial(n - 1)\nloop = []\nloop.append(loop)",
                  "factorial(10) == 3628800 and loop[0] is loop"),
    "enums": ("import enum\nclass Color(enum.Enum):\n    RED = 1\n    BLUE = 2\nfavourite = Color.BLUE",
              "favourite is Color.BLUE and Color(1) is Color.RED and list(Color)[1] is favourite"),
    "data classes": (
        "from dataclasses import dataclass, field, replace\n@dataclass(order=True)\nclass Point:\n    x: int\n"
        "    tags: list = field(default_factory=list)\npoint = Point(1, ['a'])",
        "point == Point(1, ['a']) and replace(point, x=2) > point and Point(3).tags == []",
    ),
    "named tuples": ("from collections import namedtuple\n"
                     "Pair = namedtuple('Pair', 'a b', defaults=[9])\npair = Pair(1)",
                     "pair.b == 9 and type(pair) is Pair and pair._replace(a=2) == (2, 9)"),
    "partial functions": (
        "import functools\ndef power(base, to): return base ** to\ncube = functools.partial(power, to=3)\n"
        "@functools.lru_cache\ndef cached(n): return n + 1\n_ = cached(1)",
        "cube(2) == 8 and cube.func is power and cached(4) == 5",
    ),
    "numpy": (
        "import numpy as np\ngrid = np.arange(12.0).reshape(3, 4)\nview = grid[1]\nbig = np.ones(200_000)\n"
        "words = np.array(['a', None], dtype=object)\nrecords = np.zeros(2, dtype=[('x', 'i4'), ('y', 'f8')])",
        "grid.sum() == 66 and (view.__setitem__(0, 50), grid[1, 0])[1] == 50 and big.sum() == 200_000"
        " and words[1] is None and records.dtype.names == ('x', 'y')",
    ),
    "pandas": (
        "import pandas as pd\nframe = pd.DataFrame({'n': range(1000), 's': ['x', 'y'] * 500}, "
        "index=pd.date_range('2024-01-01', periods=1000, freq='h'))\n"
        "frame['c'] = frame.s.astype('category')\nseries = frame.n",
        "frame.n.sum() == 499500 and str(frame.c.dtype) == 'category' and frame.index.freqstr == 'h'"
        " and series.equals(frame.n) and frame.groupby('s').n.max()['y'] == 999",
    ),
    "scikit-learn": (
        "from sklearn.linear_model import LinearRegression\n"
        "model = LinearRegression().fit([[0], [1], [2]], [1, 3, 5])",
        "abs(model.predict([[10]])[0] - 21) < 1e-9",
    ),
    "matplotlib": (
        "from matplotlib.figure import Figure\nfigure = Figure()\n_ = figure.subplots().plot([1, 2, 4])",
        "list(figure.axes[0].lines[0].get_ydata()) == [1, 2, 4] and figure.savefig('/tmp/figure.png') is None",
    ),
    "paths, times, patterns": (
        "import datetime, decimal, pathlib, re, uuid\nplace = pathlib.Path('/mnt/data/x')\n"
        "when = datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC)\npattern = re.compile('a+', re.I)\n"
        "found = pattern.search('bAAc')\namount = decimal.Decimal('1.10')\nname = uuid.UUID(int=5)",
        "place.name == 'x' and when.isoformat() == '2024-02-29T00:00:00+00:00' and "
        "pattern.match('AA').group() == 'AA' and found.span() == (1, 3) and "
        "str(amount) == '1.10' and name.int == 5",
    ),
    "identity": (
        "first = second = [1]\npair_of = (first, {'inner': first})\nblob = bytes(100_000)\nsame_blob = blob",
        "first is second and pair_of[0] is first and pair_of[1]['inner'] is first and blob is same_blob",
    ),
    "containers and subclasses": (
        "from collections import Counter, OrderedDict, defaultdict, deque\nclass Bag(dict): pass\nbag = Bag(a=1)\n"
        "bag.note = 'n'\ntally = Counter('aab')\n"
        "groups = defaultdict(list, a=[1])\nqueue = deque([1, 2], maxlen=2)",
        "type(bag) is Bag and bag.note == 'n' and tally['a'] == 2 and groups['new'] == [] and queue.maxlen == 2",
    ),
    "abstract and generic classes": (
        "import abc, typing\nT = typing.TypeVar('T')\nclass Shape(abc.ABC):\n    @abc.abstractmethod\n"
        "    def area(self): ...\n"
        "class Box(Shape, typing.Generic[T]):\n    def area(self): return 4\nbox = Box[int]()",
        "box.area() == 4 and isinstance(box, Shape) and Shape.__abstractmethods__ == {'area'}",
    ),
    "exceptions": (
        "class Mine(Exception):\n    def __init__(self, code, text):\n        super().__init__(text)\n"
        "        self.code = code\nproblem = Mine(7, 'no')",
        "problem.code == 7 and problem.args == ('no',) and type(problem) is Mine",
    ),
    "async and generator functions": (
        "import asyncio\nasync def later(n):\n    await asyncio.sleep(0)\n    return n\n"
        "def numbers():\n    yield from range(3)",
        "list(numbers()) == [0, 1, 2] and asyncio.iscoroutinefunction(later)",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def restored(keeper: Server) -> Iterator[Callable[[str], str]]:
    """Evaluates an expression in a session that made all of `CASES` in one kernel and goes on in another."""
    client, session_id = keeper.client(), new_id()
    for code, _check in CASES.values():
        assert is_whole(client.run(code, session_id=session_id)), code
    lose_kernel(client, session_id)
    reply = client.run("None", session_id=session_id)
    assert reply["runtime_status"] == "restored", reply
    assert reply["state"]["restored"]["lost"] == []
    yield lambda expression: client.printed(f"print({expression})", session_id=session_id)
    client.delete(session_id)


@pytest.mark.parametrize("case", CASES)
def test_it_comes_back(restored: Callable[[str], str], case: str) -> None:
    assert restored(CASES[case][1]) == "True\n"


def test_what_cannot_be_saved_is_named_and_the_rest_is_kept(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    reply = run("steps = (n for n in range(3))\nopened = open('/mnt/data/a', 'w')\nkept = [steps is None, 1]")
    skipped = {each["name"]: each for each in reply["state"]["skipped"]}
    assert set(skipped) == {"steps", "opened"}
    assert reply["state"]["skipped_count"] == 2
    assert skipped["steps"]["type"] == "generator"
    assert "generator" in skipped["steps"]["reason"]
    assert "file" in skipped["opened"]["reason"]
    assert (reply["state"]["captured"], reply["state"]["saved"]) == (True, 1)
    lose_kernel(client, session_id)
    assert run("print(kept, 'steps' in globals())")["stdout"] == "[False, 1] False\n"


def test_prompt_numbers_inputs_and_outputs_go_on(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    run("'first'")
    run("6 * 7")
    before = run("None")["execution_count"]
    lose_kernel(client, session_id)
    reply = run("print(_, __, _1, Out[2], In[1], _i2, len(In))")
    assert reply["runtime_status"] == "restored"
    assert reply["execution_count"] == before + 1 == 4
    assert reply["stdout"] == "42 first first 42 'first' 6 * 7 5\n"


def test_outputs_of_all_kinds_come_back_in_their_order(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    texts, numbers = ("'text' * 100", "'\\ud800'"), ("True", "1 << 70", "2.5")
    for code in ("shared = ['a']; 1", "shared", *texts, *numbers, "shared", "b'raw'"):
        run(code)
    show = "print([repr(value)[:20] for value in Out.values()], list(Out), Out[2] is Out[8] is shared, _9, _1)"
    told = run(show)["stdout"]
    lose_kernel(client, session_id)
    assert run(show)["stdout"] == told
    assert told.startswith("['1', \"['a']\", ")
    assert told.endswith(" [1, 2, 3, 4, 5, 6, 7, 8, 9] True b'raw' 1\n")


def test_names_that_look_like_ipythons_and_are_not_are_kept(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    run("_a = _0x = __ = In2 = Outer = _iv = ____ = 'mine'; _5 = _i5 = 'not mine'")
    lose_kernel(client, session_id)
    assert run("print(_a, _0x, In2, Outer, _iv, ____, '_5' in globals())")["stdout"] == f"{'mine ' * 6}False\n"


def test_random_numbers_go_on_as_without_an_interruption(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    seed = "import random, numpy as np\nrandom.seed(1)\nnp.random.seed(2)\nown = np.random.default_rng(3)\n"
    draw = "print([random.random(), np.random.rand(), own.random(), random.gauss(0, 1), np.random.normal()])\n"
    uninterrupted = client.printed(seed + draw + draw)
    first = run(seed + draw)["stdout"]
    lose_kernel(client, session_id)
    assert first + run(draw)["stdout"] == uninterrupted


def test_folder_environment_and_module_path_come_back(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    run(
        "import os, sys\nos.makedirs('/mnt/data/sub')\nos.chdir('/mnt/data/sub')\nos.environ['MINE'] = 'é'\n"
        "os.environ.pop('LANG')\nsys.path.insert(0, '/mnt/data/sub')"
    )
    lose_kernel(client, session_id)
    reply = run(
        "print(os.getcwd(), os.environ['MINE'], 'LANG' in os.environ, sys.path[0], "
        "sys.path.count('/mnt/data/sub'))"
    )
    assert reply["stdout"] == "/mnt/data/sub é False /mnt/data/sub 1\n"


def test_a_module_of_the_work_folder_is_imported_again(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    run("open('mine.py', 'w').write('level = 1\\nclass Thing:\\n    def name(self): return \"thing\"\\n')")
    run("import mine\nfrom mine import Thing\nthing = Thing()\nmine.level = 2")
    lose_kernel(client, session_id)
    assert run("print(thing.name(), type(thing) is mine.Thing is Thing)")["stdout"] == "thing True\n"


@pytest.mark.parametrize(
    "code",
    [
        "dill = pickle = json = hashlib = len = dict = open = type = None",
        "import builtins\nbuiltins.open = builtins.print = None",
        "import json\njson.dumps = json.loads = json.JSONEncoder = None",
        "import hashlib\nhashlib.sha256 = hashlib.new = None",
        "import copyreg, marshal, pickle, struct, _pickle\npickle.dumps = pickle.loads = _pickle.Pickler = "
        "_pickle.Unpickler = marshal.dumps = struct.Struct = copyreg.__reduce_ex__ = None",
        "import os\nos.scandir = os.open = os.stat = os.read = os.getcwd = os.lstat = os.listdir = None",
        "import signal, time\ntime.monotonic = time.time = lambda: 0\nsignal.signal = signal.setitimer = None",
        "import sys\nsys.modules['dill'] = sys.modules['pickle'] = sys.modules['json'] = None",
        "import sys\nsys.stdout = sys.stderr = None",
        "del In, Out, __builtins__, __name__",
        "In = Out = _ = _oh = 5",
        "get_ipython().reset()\nkept = 1",
        "import sys\nsys.setrecursionlimit(150)",
    ],
    ids=["names", "builtins", "json", "hashlib", "pickle", "os", "clocks", "modules", "streams",
         "names of the shell",
         "other names of the shell", "reset", "recursion limit"],
)  # fmt: skip
def test_who_redefines_what_saving_uses_is_saved_all_the_same(
    client: Client, session_id: str, run: Callable[..., Json], code: str
) -> None:
    reply = run(f"kept = 1\nopen('/mnt/data/note', 'w').write('n')\n{code}")
    assert reply["status"] == "ok", reply
    assert is_whole(reply), reply["state"]
    assert reply["state"]["files"]["saved"] == 1
    assert in_a_fork(client, session_id, "print(kept)") == "1\n"


@pytest.mark.parametrize(
    "code",
    [
        "import random\nrandom._inst = None",
        "import random\nrandom._inst.getstate = lambda: 1 / 0",
        "import sys\nsys.path = None",
        "import os\nos.environ = None",
        "import os\nos.environ = {5: 6}",
    ],
    ids=["no generator", "generator raises", "no module path", "no environment", "odd environment"],
)
def test_surroundings_that_are_broken_do_not_cost_the_variables(
    client: Client, session_id: str, run: Callable[..., Json], code: str
) -> None:
    reply = run(f"kept = 1\n{code}")
    assert reply["state"]["captured"], reply["state"]
    assert in_a_fork(client, session_id, "print(kept)") == "1\n"


# --- cells and kernels that fail


def test_a_failed_cell_changes_the_live_kernel_only(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    run("x = 1")
    failed = run("x = 2\nopen('/mnt/data/late', 'w').write('')\n1 / 0")
    assert (failed["status"], failed["state"]["captured"], failed["state"]["version"]) == ("error", False, 1)
    assert failed["state"]["error"] is None
    assert client.request("GET", f"/sessions/{session_id}/vars/x").json()["preview"] == "2"
    lose_kernel(client, session_id)
    assert run("import os\nprint(x, os.listdir('/mnt/data'))")["stdout"] == "1 []\n"


def test_what_a_failed_cell_did_is_saved_with_the_next_that_succeeds(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    run("x = 2\n1 / 0")
    reply = run("print(x)")
    assert (reply["runtime_status"], reply["state"]["version"]) == ("reused", 1)
    lose_kernel(client, session_id)
    assert run("print(x)")["stdout"] == "2\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("x = 2\nimport os\nos.kill(os.getpid(), 9)", "killed"),
        ("x = 2\nimport os\nos._exit(3)", "killed"),
        ("x = 2\nhoard = [b'x' * (16 << 20) for _ in range(256)]", "out_of_memory"),
        ("x = 2\nimport signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", "timeout"),
    ],
    ids=["killed", "left", "out of memory", "timed out"],
)
def test_a_kernel_that_is_lost_costs_one_execution(run: Callable[..., Json], code: str, status: str) -> None:
    run("x = 1")
    lost = run(code, timeout=2000)
    assert (lost["status"], lost["state"]["captured"], lost["state"]["version"]) == (status, False, 1)
    reply = run("print(x)")
    assert (reply["runtime_status"], reply["stdout"]) == ("restored", "1\n")
    assert reply["state"]["restored"] == {"names": 1, "lost": [], "error": None}


def test_an_interrupted_cell_leaves_the_kernel_as_it_was(run: Callable[..., Json]) -> None:
    run("x = 1")
    assert run("x = 2\nwhile True: pass", timeout=500)["status"] == "timeout"
    reply = run("print(x)")
    assert (reply["runtime_status"], reply["stdout"]) == ("reused", "2\n")


# --- files


def test_files_come_back_as_they_were(client: Client, session_id: str, run: Callable[..., Json]) -> None:
    reply = run(
        "import os\nos.makedirs('a/b c')\nopen('a/b c/ü.bin', 'wb').write(bytes(range(256)) * 9000)\n"
        "open('empty', 'w')\nopen('script', 'w').write('#!')\nos.chmod('script', 0o755)\nos.chmod('a', 0o700)\n"
        "os.utime('script', ns=(1, 1_600_000_000_123_456_789))\nopen('gone', 'w').write('x')"
    )
    assert (reply["state"]["files"]["saved"], reply["state"]["files"]["bytes"]) == (4, 256 * 9000 + 3)
    assert run("os.unlink('gone')")["state"]["files"]["saved"] == 3
    lose_kernel(client, session_id)
    reply = run(
        "found = sorted(os.path.join(top, name) for top, _, names in os.walk('.') for name in names)\n"
        "print(found, open('a/b c/ü.bin', 'rb').read() == bytes(range(256)) * 9000, os.path.getsize('empty'))\n"
        "print(oct(os.stat('script').st_mode), oct(os.stat('a').st_mode), os.stat('script').st_mtime_ns)"
    )
    assert reply["stdout"] == (
        "['./a/b c/ü.bin', './empty', './script'] True 0\n0o100755 0o40700 1600000000123456789\n"
    )


def test_files_over_the_limits_are_named_and_the_others_kept(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    reply = run("open('big', 'wb').write(bytes((10 << 20) + 1))\nopen('small', 'w').write('s')")
    files = reply["state"]["files"]
    assert (files["saved"], files["skipped_count"]) == (1, 1)
    assert files["skipped"][0]["name"] == "big"
    assert "limit" in files["skipped"][0]["reason"]
    reply = run("for n in range(60): open(f'f{n:02}', 'w').write('x')\nimport os\nos.unlink('big')")
    assert (reply["state"]["files"]["saved"], reply["state"]["files"]["skipped_count"]) == (50, 11)
    lose_kernel(client, session_id)
    assert run("import os\nprint(len(os.listdir()))")["stdout"] == "50\n"


def test_a_link_out_of_the_work_folder_brings_nothing_in(
    client: Client, session_id: str, run: Callable[..., Json]
) -> None:
    run(
        "import os\nos.symlink('/etc/passwd', 'p')\nos.symlink('/etc', 'd')\nos.mkfifo('f')\n"
        "open('n', 'w').write('n')"
    )
    lose_kernel(client, session_id)
    assert run("import os\nprint(sorted(name for name in os.listdir() if not os.path.islink(name)))")[
        "stdout"
    ] == ("['n']\n")


# --- what is stored


def test_an_unchanged_array_is_stored_once_and_a_changed_element_costs_a_chunk(
    keeper: Server, client: Client
) -> None:
    store, session_id = Path(keeper.environment["STATE_DIR"]), new_id()
    client.run("import numpy as np\na = np.random.default_rng(1).random(20 * 131072)", session_id=session_id)
    first = folder_bytes(store)
    assert first > 20 * MB
    for _ in range(5):
        assert client.run("n = 1", session_id=session_id)["state"]["bytes"] > 20 * MB
    assert folder_bytes(store) - first < MB
    client.run("a[131072 * 7] = 0", session_id=session_id)
    assert MB < folder_bytes(store) - first < 4 * MB
    lose_kernel(client, session_id)
    reply = client.run("print(a[131072 * 7], float(a.sum()) > 1)", session_id=session_id)
    assert reply["stdout"] == "0.0 True\n"
    assert folder_bytes(store) - first < 5 * MB  # a restored kernel knows what is stored too
    with_it = folder_bytes(store / "blobs")
    assert client.delete(session_id).status_code == 204
    wait_for(lambda: folder_bytes(store / "blobs") < with_it - 20 * MB)


def test_an_unchanged_file_is_stored_once(keeper: Server, client: Client, session_id: str) -> None:
    store = Path(keeper.environment["STATE_DIR"])
    client.run("import os\nopen('f', 'wb').write(os.urandom(8 << 20))", session_id=session_id)
    first = folder_bytes(store)
    for _ in range(3):
        assert client.run("n = 1", session_id=session_id)["state"]["files"]["bytes"] == 8 * MB
    client.run("os.rename('f', 'g')", session_id=session_id)
    assert folder_bytes(store) - first < MB


def test_nothing_of_a_deleted_session_is_left(keeper: Server, client: Client) -> None:
    session_id, store = new_id(), Path(keeper.environment["STATE_DIR"])
    before = blob_files(store)
    client.run(
        "secret = 'S3CR3T-MARK' * 20_000\nopen('f', 'wb').write(b'S3CR3T-MARK' * 20_000)", session_id=session_id
    )
    client.run("x = 2", session_id=session_id)
    new = blob_files(store) - before
    assert len(new) >= 2
    assert client.delete(session_id).status_code == 204
    wait_for(lambda: not blob_files(store) & new)
    for path in ("", "/history", "/vars"):
        assert client.request("GET", f"/sessions/{session_id}{path}").status_code == 404
    reply = client.run("print('secret' in globals())", session_id=session_id)
    assert (reply["runtime_status"], reply["stdout"], reply["state"]["version"]) == ("new", "False\n", 1)
    client.delete(session_id)


# --- owners and many at once


def test_owners_with_the_same_session_id_never_see_each_other(keeper: Server) -> None:
    session_id = new_id()
    first = keeper.client(KEY)
    owners = [first, keeper.client(OTHER_KEY), first.as_user("ann"), first.as_user("bob")]
    for number, owner in enumerate(owners):
        reply = owner.run(f"x = {number}\nopen('f', 'w').write('{number}')", session_id=session_id)
        assert reply["runtime_status"] == "new"
    for owner in owners:
        lose_kernel(owner, session_id)
    for number, owner in enumerate(owners):
        reply = owner.run("print(x, open('f').read())", session_id=session_id)
        assert (reply["runtime_status"], reply["stdout"]) == ("restored", f"{number} {number}\n")
        assert owner.request("GET", f"/sessions/{session_id}/history").json()["executions"] == 3
    assert owners[1].delete(session_id).status_code == 204
    assert owners[0].session(session_id)["executions"] == 3
    for owner in owners:
        owner.delete(session_id)


def test_calls_at_once_in_one_session_take_turns(client: Client, session_id: str) -> None:
    client.run("n = 0\nimport time", session_id=session_id)
    code = "old = n\ntime.sleep(0.01)\nn = old + 1"
    with ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda _: client.run(code, session_id=session_id), range(20)))
    assert sorted(reply["state"]["version"] for reply in replies) == list(range(2, 22))
    lose_kernel(client, session_id)
    assert client.run("print(n)", session_id=session_id)["stdout"] == "20\n"
    assert client.session(session_id)["executions"] == 23


def test_many_sessions_at_once_keep_their_own(client: Client) -> None:
    ids = [new_id() for _ in range(8)]

    def life(session_id: str) -> str:
        client.run(f"mine = {session_id!r}\na = bytes([1]) * 300_000", session_id=session_id)
        lose_kernel(client, session_id)
        return str(client.run("print(mine, sum(a))", session_id=session_id)["stdout"])

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(life, ids)) == [f"{session_id} 300000\n" for session_id in ids]
    for session_id in ids:
        assert client.delete(session_id).status_code == 204


@pytest.mark.parametrize(
    "code",
    [
        "x = 2\nimport time\ntime.sleep(60)",
        "class Slow:\n    def __reduce__(self):\n        import time\n        time.sleep(1.5)\n"
        "        return int, ()\n"
        "slow = Slow()\nx = 2",
    ],
    ids=["while it runs", "while it is saved"],
)
def test_a_client_that_goes_away_leaves_a_usable_session(
    keeper: Server, client: Client, session_id: str, run: Callable[..., Json], code: str
) -> None:
    run("x = 1")
    body = json.dumps(client.body(code, session_id=session_id)).encode()
    head = f"POST /exec HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", keeper.port), timeout=10) as connection:
        connection.sendall(head + body)
        time.sleep(0.7)
    reply = run("print(x)")
    assert reply["status"] == "ok", reply
    assert reply["stdout"] in ("1\n", "2\n")
    assert run("x = 3\nprint(x)")["state"]["captured"]
    lose_kernel(client, session_id)
    assert run("print(x)")["stdout"] == "3\n"


# --- kernels that are removed


def test_an_idle_kernel_is_removed_and_the_session_goes_on(start_server: Callable[..., Server]) -> None:
    server = start_server({"KERNEL_IDLE_SECONDS": "1"}).wait_ready()
    client, session_id = server.client(), new_id()
    client.run("x = [1]\ny = x\nopen('f', 'w').write('f')", session_id=session_id)
    assert client.run("x.append(2)", session_id=session_id)["runtime_status"] == "reused"
    wait_dormant(client, session_id)
    shown = client.session(session_id)
    assert (shown["version"], shown["executions"]) == (2, 2)
    reply = client.run("print(x, x is y, open('f').read())", session_id=session_id)
    assert (reply["runtime_status"], reply["stdout"]) == ("restored", "[1, 2] True f\n")
    assert server.stderr.strip() == ""


def test_the_longest_idle_kernel_gives_way_and_its_session_goes_on(start_server: Callable[..., Server]) -> None:
    server = start_server({"MAX_LIVE_KERNELS": "1"}).wait_ready()
    client, ids = server.client(), [new_id(), new_id(), new_id()]
    for turn in range(2):
        for number, session_id in enumerate(ids):
            reply = client.run(
                f"seen = [*globals().get('seen', []), {number}]\nprint(seen)", session_id=session_id
            )
            assert reply["stdout"] == f"{[number] * (turn + 1)}\n"
            assert reply["runtime_status"] == ("restored" if turn else "new")
    wait_for(lambda: client.health()["kernels"] == 1)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_sessions_outlive_the_server(
    start_server: Callable[..., Server], tmp_path: Path, end: signal.Signals
) -> None:
    environment = {"STATE_DIR": str(tmp_path / "state")}
    first = start_server(environment).wait_ready()
    client, session_id, failed = first.client(), new_id(), new_id()
    client.run("def f(): return y\ny = 5\nopen('g', 'w').write('g')", session_id=session_id)
    client.run("z = 1", session_id=failed)
    client.run("z = 2\n1 / 0", session_id=failed)
    shown = client.session(session_id)
    first.signal(end)
    first.wait()
    second = start_server(environment, runtime_dir=first.runtime_dir).wait_ready()
    client = second.client()
    expected = "reused" if end is signal.SIGKILL else "restored"
    state = "idle" if end is signal.SIGKILL else "dormant"
    assert client.session(session_id) == {**shown, "state": state}
    listed = client.request("GET", "/sessions").json()["sessions"]
    assert {each["session_id"] for each in listed} == {session_id, failed}
    reply = client.run("y += 1\nprint(f(), open('g').read())", session_id=session_id)
    assert (reply["stdout"], reply["runtime_status"], reply["execution_count"]) == ("6 g\n", expected, 2)
    assert reply["state"]["version"] == 2
    assert client.run("print(z)", session_id=failed)["stdout"] == ("2\n" if end is signal.SIGKILL else "1\n")
    assert (
        client.request("GET", f"/sessions/{session_id}/history").json()["history"][0]["code"].startswith("def f")
    )
    for each in (session_id, failed):
        assert client.delete(each).status_code == 204
    assert not blob_files(tmp_path / "state")


def test_a_kernel_that_ran_when_the_server_was_killed_is_not_taken_over(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    environment = {"STATE_DIR": str(tmp_path / "state")}
    first = start_server(environment).wait_ready()
    client, session_id = first.client(), new_id()
    client.run("x = 1\nimport time", session_id=session_id)
    with ThreadPoolExecutor(1) as threads:
        going = threads.submit(client.post, client.body("x = 2\ntime.sleep(30)", session_id=session_id))
        wait_for(lambda: client.session(session_id)["state"] == "busy")
        time.sleep(0.5)
        first.signal(signal.SIGKILL)
        first.wait()
        assert going.exception() is not None
    second = start_server(environment, runtime_dir=first.runtime_dir).wait_ready()
    reply = second.client().run("print(x)", session_id=session_id)
    assert (reply["runtime_status"], reply["stdout"]) == ("restored", "1\n")


# --- settings


def test_failed_cells_are_saved_and_replies_come_first_when_it_is_so_configured(
    start_server: Callable[..., Server],
) -> None:
    server = start_server({"STATE_CAPTURE_ON_ERROR": "true", "STATE_DURABLE_BEFORE_REPLY": "false"}).wait_ready()
    client, session_id = server.client(), new_id()
    reply = client.run("x = 1", session_id=session_id)
    assert (reply["state"]["pending"], reply["state"]["captured"]) == (True, True)
    failed = client.run("x = 2\n1 / 0", session_id=session_id)
    assert (failed["status"], failed["state"]["captured"]) == ("error", True)
    wait_for(lambda: client.session(session_id)["version"] == 2)
    lose_kernel(client, session_id)
    assert client.run("print(x)", session_id=session_id)["stdout"] == "2\n"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "Traceback" not in server.stderr


def test_what_is_pending_when_the_server_stops_is_stored(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    environment = {"STATE_DIR": str(tmp_path / "state"), "STATE_DURABLE_BEFORE_REPLY": "false"}
    first = start_server(environment).wait_ready()
    session_id = new_id()
    first.client().run("x = bytes(30 << 20)", session_id=session_id)
    first.signal(signal.SIGTERM)
    first.wait()
    second = start_server(environment, runtime_dir=first.runtime_dir).wait_ready()
    assert second.client().run("print(len(x))", session_id=session_id)["stdout"] == f"{30 * MB}\n"


def test_nothing_is_kept_when_persistence_is_off(start_server: Callable[..., Server]) -> None:
    server = start_server({"STATE_PERSISTENCE_ENABLED": "false"}).wait_ready()
    client, session_id = server.client(), new_id()
    state = client.run("x = 1\nopen('f', 'w').write('f')", session_id=session_id)["state"]
    assert (state["captured"], state["saved"], state["error"], state["version"]) == (False, 0, None, 0)
    assert client.run("print(x)", session_id=session_id)["stdout"] == "1\n"
    lose_kernel(client, session_id)
    reply = client.run("import os\nprint('x' in globals(), os.listdir())", session_id=session_id)
    assert (reply["runtime_status"], reply["stdout"], reply["stderr"]) == ("new", "False []\n", "")
    assert not blob_files(Path(server.environment["STATE_DIR"]))


def test_a_state_that_has_expired_is_told_of(start_server: Callable[..., Server]) -> None:
    server = start_server({"STATE_TTL_SECONDS": "1"}).wait_ready()
    client, session_id = server.client(), new_id()
    client.run("x = 1", session_id=session_id)
    lose_kernel(client, session_id)
    time.sleep(1.5)
    reply = client.run("print('x' in globals())", session_id=session_id)
    assert (reply["status"], reply["runtime_status"], reply["stdout"]) == ("ok", "new", "False\n")
    assert "expired" in reply["state"]["restored"]["error"]
    assert "expired" in reply["stderr"]
    assert client.run("y = 1", session_id=session_id)["state"]["captured"]
    assert os.path.isdir(server.environment["STATE_DIR"])
