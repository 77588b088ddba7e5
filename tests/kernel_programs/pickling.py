"""Saves and loads namespaces: ``python pickling.py save|again|check``, JSON on stdin and stdout.

``save`` runs the first code of each case in a fresh ``__main__`` and saves what it left; ``again`` loads each
state and saves it a second time; ``check`` loads each state and runs the second code of the case.
"""

from __future__ import annotations

import base64
import json
import sys
import traceback
import types
from importlib.util import find_spec
from typing import Any

from kernelgate_kernel.state.pickling import Dump, dump, load

SECONDS = 60.0
MAX_BYTES = 1 << 30
Json = dict[str, Any]


def fresh_namespace() -> dict[str, Any]:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    module.__dict__["__builtins__"] = __builtins__
    return module.__dict__


def saved(namespace: dict[str, Any]) -> Dump:
    items = [(name, value) for name, value in namespace.items() if not name.startswith("__")]
    return dump(items, namespace, MAX_BYTES, SECONDS)


def save(case: Json) -> Json:
    namespace = fresh_namespace()
    exec(compile(case["setup"], "<cell 1>", "exec", dont_inherit=True), namespace)
    state = saved(namespace)
    failed = {failure.name: failure.reason for failure in state.failed}
    return {"check": case["check"], "failed": failed, "lost": {}, "dill": state.dill, **packed(state)}


def again(case: Json) -> Json:
    namespace = loaded_namespace(case)
    state = saved(namespace)
    assert state.failed == [], state.failed
    return {**case, **packed(state)}


def check(case: Json) -> Json:
    namespace = loaded_namespace(case)
    expected = "FAILED" in case["check"] or "LOST" in case["check"]
    assert expected or (case["failed"], case["lost"]) == ({}, {}), (case["failed"], case["lost"])
    namespace.update(FAILED=case["failed"], LOST=case["lost"], DILL=case["dill"])
    exec(compile(case["check"], "<cell 2>", "exec", dont_inherit=True), namespace)
    return {}


def packed(state: Dump) -> Json:
    return {
        "main": base64.b64encode(state.main).decode(),
        "buffers": [base64.b64encode(buffer).decode() for buffer in state.buffers],
    }


def loaded_namespace(case: Json) -> dict[str, Any]:
    namespace = fresh_namespace()
    buffers = [bytearray(base64.b64decode(buffer)) for buffer in case["buffers"]]
    loaded = load(base64.b64decode(case["main"]), buffers, namespace)
    namespace.update(loaded.values)
    case["lost"].update({failure.name: failure.reason for failure in loaded.lost})
    return namespace


def run(step: str, cases: dict[str, Json]) -> Json:
    results: Json = {}
    for name, case in cases.items():
        missing = [library for library in case.get("needs", ()) if find_spec(library) is None]
        if missing or "missing" in case or "error" in case:
            results[name] = {"missing": missing, **case}
            continue
        try:
            results[name] = STEPS[step](case)
        except BaseException:  # noqa: BLE001  the code of a case may do anything
            results[name] = {"error": traceback.format_exc()}
    return results


STEPS = {"save": save, "again": again, "check": check}

if __name__ == "__main__":
    stdin, stdout = sys.stdin, sys.stdout
    sys.stdout = sys.stderr
    json.dump(run(sys.argv[1], json.load(stdin)), stdout)
