"""The state of a session as its kernel saves and restores it: the whole, not what single values become."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernelgate.kernel.messages import Message
from kernelgate.kernel.snapshot import FileLimits, Inbox, SaveRequest, Snapshot

ROOT = Path(__file__).parent.parent
KERNEL = ROOT / "kernels" / "python"
PROGRAM = ROOT / "tests" / "kernel_programs" / "session.py"
sys.path.insert(0, str(KERNEL))

from kernelgate_kernel.state.snapshot import Snapshots  # noqa: E402

LIMITS = FileLimits(max_file=10 << 20, max_total=50 << 20, max_count=50, max_name=255)
Json = dict[str, Any]


# --- from one process to the next


class Travel:
    """Saves a session in one process and restores it in another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, cells: str, check: str, before: str = "") -> Json:
        return self.restore(self.save(cells), check, before)

    def save(self, cells: str) -> Json:
        saved = self.run("save", {"cells": [cells]})
        assert saved["layout"]["skipped"] == []
        return saved

    def restore(self, saved: Json, check: str, before: str = "") -> Json:
        return self.run("restore", {**saved, "before": [before], "cells": [check]})

    def run(self, step: str, case: Json) -> Json:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(KERNEL),
            "PYTHONDONTWRITEBYTECODE": "1",
            "IPYTHONDIR": str(self.folder / "ipython"),
            "HOME": str(self.folder),
        }
        done = subprocess.run(
            [sys.executable, str(PROGRAM), step],
            input=json.dumps({**case, "folder": str(self.folder)}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture
def travel(tmp_path: Path) -> Travel:
    return Travel(tmp_path)


def test_numpys_random_numbers_go_on_where_nothing_has_imported_them_yet(travel: Travel) -> None:
    cells = "import numpy as np; np.random.seed(7); np.random.rand(); state = np.random.get_state()[1].tolist()"
    travel(cells, "import numpy as np; assert np.random.get_state()[1].tolist() == state")


def test_modules_of_the_work_folder_are_imported_again_as_long_as_they_are_there(travel: Travel) -> None:
    for path in ("mine/__init__.py", "mine/deep.py", "moved.py"):
        (travel.folder / path).parent.mkdir(exist_ok=True)
        (travel.folder / path).write_text("X = []\ndef f(): return X\n")
    cells = """
import os, sys
sys.path.insert(0, os.getcwd())
import mine.deep, moved
from mine.deep import f
f().append(1), moved.f().append(1)
os.rename("moved.py", "elsewhere.py")
"""
    check = """
assert f is mine.deep.f and mine.deep.__spec__.origin == os.path.join(os.getcwd(), "mine", "deep.py") and f() == []
import moved as again
assert moved.f() == [1] and again is moved
"""
    travel(cells, check)


SETTINGS = """
import sys, decimal, numpy as np, pandas as pd
sys.setrecursionlimit(5432)
decimal.getcontext().prec = 50
np.set_printoptions(precision=2, suppress=True)
pd.set_option("display.max_rows", 7)
pd.options.display.float_format = "{:.1f}".format
"""

SET = """
import sys, decimal, numpy as np, pandas as pd
assert sys.getrecursionlimit() == 5432 and decimal.getcontext().prec == 50
assert np.get_printoptions()["precision"] == 2 and np.get_printoptions()["suppress"] is True
assert pd.options.display.max_rows == 7 and pd.options.display.float_format is None
"""


def test_settings_of_libraries_are_as_they_were(travel: Travel) -> None:
    travel(SETTINGS, SET)
    travel(SETTINGS, SET, before="import numpy, pandas, decimal")


def test_settings_of_plots_are_as_they_were(travel: Travel) -> None:
    pytest.importorskip("matplotlib")
    cells = "import matplotlib.pyplot as plt; plt.style.use('ggplot'); plt.rcParams['figure.figsize'] = (3, 4)"
    check = """
import matplotlib.pyplot as plt
assert plt.rcParams["figure.figsize"] == [3, 4] and plt.rcParams["axes.grid"] is True
assert plt.rcParams["axes.prop_cycle"].by_key()["color"][0] == "#E24A33"
"""
    travel(cells, check)


def test_no_library_is_imported_for_settings_that_nobody_has_changed(travel: Travel) -> None:
    cells = "import numpy, pandas, decimal; del numpy, pandas, decimal"
    travel(cells, "import sys; assert 'pandas' not in sys.modules")


def test_a_low_recursion_limit_does_not_reach_a_kernel_that_has_just_begun(travel: Travel) -> None:
    travel("import sys; sys.setrecursionlimit(200)", "import sys; assert sys.getrecursionlimit() > 200")


def test_hostile_settings_break_neither_saving_nor_restoring(travel: Travel) -> None:
    cells = """
import sys, numpy, pandas, decimal
class Loud:
    def __eq__(self, other): raise SystemExit("no")
    def __getattr__(self, name): raise KeyboardInterrupt(name)
    __hash__ = None
numpy.get_printoptions = lambda: 1 / 0
pandas._config.config._global_config["display"]["max_rows"] = Loud()
pandas._config.config._global_config["display"]["width"] = "x" * 10_000_000
pandas._config.config._global_config["display"]["precision"] = 10 ** 10_000
sys.modules["decimal"] = Loud()
del numpy, pandas, decimal
kept = 1
"""
    assert travel(cells, "assert kept == 1")["lost"] == []


def test_a_state_without_settings_is_restored(travel: Travel) -> None:
    saved = travel.save("x = 1")
    surroundings = json.loads(base64.b64decode(saved["chunks"][0]))
    assert surroundings.pop("settings") == {}
    data = json.dumps(surroundings).encode()
    saved["chunks"][0], saved["layout"]["sizes"][0] = base64.b64encode(data).decode(), len(data)
    assert travel.restore(saved, "assert x == 1")["lost"] == []


# --- what one save sends after another


class Sessions:
    """Saves one namespace again and again, to a gateway that stores all it gets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: Json = {"__name__": "__main__"}
        history = SimpleNamespace(input_hist_parsed=[""])
        shell = SimpleNamespace(user_ns=self.names, user_ns_hidden={}, history_manager=history, execution_count=1)
        self._snapshots = Snapshots(shell, str(folder))
        self._stored: Snapshot | None = None
        self._count = 0

    def save(self, meanwhile: Callable[[], object] = lambda: None) -> Snapshot:
        """Save; ``meanwhile`` happens after the files were looked at and before they are sent."""
        self._count += 1
        last = self._stored
        base, known, sent = (None, set(), []) if last is None else (last.tag, last.digests, last.sent)
        request = SaveRequest(f"tag{self._count}", base, frozenset(known), sent, 50 << 20, 10.0, False, LIMITS)
        saved = self._snapshots.save(request.metadata())
        meanwhile()
        chunks = [bytes(chunk) for chunk in saved.chunks()]
        content = {"last": True, "tag": request.tag, "layout": saved.layout, "error": None}
        self._stored = asyncio.run(self._receive(request, content, chunks))
        return self._stored

    def take_over(self) -> None:
        """Let another gateway go on, which knows what is stored and not what was sent."""
        assert self._stored is not None
        self._stored = replace(self._stored, sent=())

    async def _receive(self, request: SaveRequest, content: Json, chunks: list[bytes]) -> Snapshot:
        inbox = Inbox(request)
        parts = [b"", b'{"msg_type": "kernelgate_state"}', b"{}", b"{}", json.dumps(content).encode()]
        inbox.take(Message([*parts, *chunks]))
        snapshot = await inbox.snapshot()
        assert snapshot is not None, inbox.error
        return snapshot


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path)


def paths(snapshot: Snapshot) -> list[str]:
    return [entry["path"] for entry in snapshot.layout["files"]]


def settle() -> None:
    """Wait until the times of files tell of every later change."""
    time.sleep(0.05)


def test_a_file_renamed_before_it_was_sent_is_in_the_next_save(sessions: Sessions, tmp_path: Path) -> None:
    (tmp_path / "out.tmp").write_text("result " * 1000)
    settle()
    first = sessions.save(lambda: (tmp_path / "out.tmp").rename(tmp_path / "out.txt"))
    assert (paths(first), first.layout["files_skipped"][0]["name"]) == ([], "out.tmp")
    second = sessions.save()
    assert paths(second) == ["out.txt"]
    assert set(second.layout["files"][0]["chunks"]) <= set(second.chunks)
    assert sessions.save().chunks == {}


def test_parts_of_a_file_that_was_left_out_do_not_count_as_stored(sessions: Sessions, tmp_path: Path) -> None:
    content = bytes(range(256)) * (3 << 12)
    (tmp_path / "grows").write_bytes(content)
    (tmp_path / "mark").write_bytes(b"?")
    settle()

    def change() -> None:
        (tmp_path / "mark").unlink()
        with open(tmp_path / "grows", "r+b") as file:
            file.seek(len(content) - 1)
            file.write(b"!")

    sessions.save(change)
    (tmp_path / "grows").write_bytes(content)
    (tmp_path / "mark").write_bytes(b"?")
    again = sessions.save()
    assert paths(again) == ["grows", "mark"]
    assert {name for entry in again.layout["files"] for name in entry["chunks"]} <= set(again.chunks)


def test_what_was_hashed_counts_as_stored_for_a_gateway_that_did_not_get_it_itself(sessions: Sessions) -> None:
    first = sessions.save()
    sessions.take_over()
    assert set(first.digests) & set(sessions.save().chunks) == set()


def test_what_another_file_keeps_is_not_sent_again(sessions: Sessions, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("same " * 1000)
    settle()
    sessions.save()
    sessions.names["new"] = 1
    saved = sessions.save((tmp_path / "b").unlink)
    assert paths(saved) == ["a", "b"]
    last = sessions.save()
    assert (paths(last), last.chunks) == (["a"], {})
