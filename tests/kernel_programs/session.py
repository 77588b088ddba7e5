"""One session in two processes: ``python session.py save|restore``, JSON on stdin and stdout.

``save`` runs ``cells`` in a fresh shell and saves it as a kernel does; ``restore`` runs ``before`` in a fresh
shell, puts what was saved into it and runs ``cells`` there. A cell that fails ends the program.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from kernelgate_kernel.state.snapshot import Snapshots
from traitlets.config import Config

REQUEST: dict[str, Any] = {
    "base": None,
    "sent": [],
    "tag": "first",
    "max_bytes": 50 << 20,
    "seconds": 20.0,
    "files": None,
}
Json = dict[str, Any]


def fresh_shell() -> InteractiveShell:
    config = Config()
    config.HistoryManager.enabled = False
    return InteractiveShell(config=config)


def run(shell: InteractiveShell, cells: list[str]) -> None:
    for cell in cells:
        shell.run_cell(cell, store_history=True).raise_error()


def save(case: Json) -> Json:
    shell = fresh_shell()
    snapshots = Snapshots(shell, case["folder"])
    run(shell, case["cells"])
    saved = snapshots.save(REQUEST)
    chunks = [base64.b64encode(chunk).decode() for chunk in saved.chunks()]
    return {"layout": saved.layout, "chunks": chunks}


def restore(case: Json) -> Json:
    shell = fresh_shell()
    snapshots = Snapshots(shell, case["folder"])
    run(shell, case["before"])
    chunks = [memoryview(base64.b64decode(chunk)) for chunk in case["chunks"]]
    content = {"layout": case["layout"], "digests": [""] * len(chunks), "tag": "first", "seconds": 20.0}
    count, lost = snapshots.restore(content, chunks)
    run(shell, case["cells"])
    return {"count": count, "lost": lost}


if __name__ == "__main__":
    stdin, stdout = sys.stdin, sys.stdout
    sys.stdout = sys.stderr
    result = {"save": save, "restore": restore}[sys.argv[1]](json.load(stdin))
    json.dump(result, stdout)
