"""The list of a kernel's variables and the content of one, whatever user code has made of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest

SOURCES = Path(__file__).parent.parent / "kernels" / "python"
sys.path.insert(0, str(SOURCES))

from kernelgate_kernel.state.deadline import OutOfTime, deadline  # noqa: E402
from kernelgate_kernel.state.guard import Guard  # noqa: E402
from kernelgate_kernel.state.variables import MAX_BYTES, describe, describe_all  # noqa: E402

Json = dict[str, Any]
Point = namedtuple("Point", "x y")


def listed(**namespace: Any) -> dict[str, Json]:
    """Return what is said of each variable. It is JSON."""
    reply = describe_all(namespace, ())
    assert reply["status"] == "ok"
    json.dumps(reply, allow_nan=False).encode("utf-8")
    assert all(len(v["preview"]) <= 200 and v["preview"].isprintable() for v in reply["variables"])
    return {variable["name"]: variable for variable in reply["variables"]}


def preview(value: Any) -> str:
    return str(listed(value=value)["value"]["preview"])


def shown(value: Any, rows: int = 10, offset: int = 0) -> Json:
    """Return the content of a variable. It is JSON, and not too long."""
    reply = describe({"value": value}, "value", rows, offset)
    assert reply["status"] == "ok", reply
    text = json.dumps(reply, allow_nan=False)
    text.encode("utf-8")
    assert len(text) < MAX_BYTES + 200_000
    return {**reply["variable"], "truncated": reply["truncated"]}


def rows(value: Any, count: int = 10, offset: int = 0) -> Any:
    return shown(value, count, offset)["rows"]


def hang() -> Any:
    while True:
        pass


class Shows:
    """Shows itself by what it was given."""

    def __init__(self, show: Any) -> None:
        self.show = show

    def __repr__(self) -> Any:
        return self.show()


class Fierce(type):
    """A metaclass that lets nobody look at its classes."""

    def __getattribute__(cls, name: str) -> Any:
        raise ValueError(name)

    def __eq__(cls, other: object) -> bool:
        raise ValueError

    def __hash__(cls) -> int:
        raise ValueError

    def __instancecheck__(cls, instance: object) -> bool:
        raise ValueError


class Touchy(metaclass=Fierce):
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)

    def __eq__(self, other: object) -> bool:
        raise KeyboardInterrupt

    def __hash__(self) -> int:
        return 1


class Liar(list[int]):
    def __len__(self) -> int:
        raise ValueError

    def __iter__(self) -> Iterator[int]:
        raise ValueError


# --- the list


def test_variables_are_listed_in_order_without_private_and_hidden_ones() -> None:
    namespace: Any = {"b": 1, "a": 2, "_c": 3, "__d": 4, "In": 5, "Z": 6, 7: 8, "ä": 9}
    reply = describe_all(namespace, {"In"})
    assert [variable["name"] for variable in reply["variables"]] == ["Z", "a", "b", "ä"]
    assert reply["truncated"] is False


def test_a_thousand_variables_are_listed_and_more_are_cut() -> None:
    for count, truncated in ((1000, False), (1001, True)):
        reply = describe_all({f"v{number:04}": number for number in range(count)}, ())
        assert (len(reply["variables"]), reply["truncated"]) == (1000, truncated)
        assert reply["variables"][-1]["name"] == "v0999"


@pytest.mark.parametrize(
    ("value", "kind", "length", "text"),
    [
        (None, "NoneType", None, "None"),
        (True, "bool", None, "True"),
        (5, "int", None, "5"),
        (1.5, "float", None, "1.5"),
        (float("nan"), "float", None, "nan"),
        (2j, "complex", None, "2j"),
        ("a\nb\udc80", "str", 4, r"'a\nb\udc80'"),
        (b"\x00a", "bytes", 2, r"b'\x00a'"),
        (bytearray(b"a"), "bytearray", 1, "bytearray(b'a')"),
        (range(5), "range", 5, "range(0, 5)"),
        ([1, [2, "x"], (3,)], "list", 3, "[1, [2, 'x'], (3,)]"),
        ((), "tuple", 0, "()"),
        ({"a": {1: [2]}}, "dict", 1, "{'a': {1: [2]}}"),
        (set(), "set", 0, "set()"),
        (frozenset([1]), "frozenset", 1, "frozenset({1})"),
        (deque([1, 2], maxlen=2), "deque", 2, "deque([1, 2])"),
        (Counter("aab"), "Counter", 2, "Counter({'a': 2, 'b': 1})"),
        (OrderedDict(a=1), "OrderedDict", 1, "OrderedDict({'a': 1})"),
        (defaultdict(list, a=[1]), "defaultdict", 1, "defaultdict({'a': [1]})"),
        (Point(1, 2), "Point", 2, "Point(x=1, y=2)"),
        (Liar([1, 2]), "Liar", 2, "Liar([1, 2])"),
        (Decimal("1.50"), "Decimal", None, "Decimal('1.50')"),
        (json, "module", None, "<module 'json'>"),
        (shown, "function", None, "<function shown(value, rows, offset)>"),
        (len, "builtin_function_or_method", None, "<function len>"),
        (Point, "type", None, "<class 'tests.test_kernel_variables.Point'>"),
        (Fierce, "type", None, "<class 'tests.test_kernel_variables.Fierce'>"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_values_are_shown_as_python_shows_them(value: Any, kind: str, length: int | None, text: str) -> None:
    variable = listed(value=value)["value"]
    assert (variable["type"], variable["length"], variable["shape"]) == (kind, length, None)
    assert variable["preview"] == text


def test_sizes_are_told_of_builtin_types_only() -> None:
    values = {"number": 5, "text": "abc", "items": [1, 2], "mine": Liar([1]), "other": Shows(str), "code": hang}
    sizes = {name: variable["size"] for name, variable in listed(**values).items()}
    expected = {name: sys.getsizeof(values[name]) for name in ("number", "text", "items")}
    assert sizes == {**expected, "mine": None, "other": None, "code": None}


def test_arrays_and_frames_tell_shape_and_size() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]})
    told = listed(
        array=np.zeros((2, 3)),
        frame=frame,
        series=frame["a"],
        index=frame.index,
        scalar=np.int16(5),
        dot=np.array(1.5),
    )
    facts = {name: (v["type"], v["shape"], v["length"], v["preview"]) for name, v in told.items()}
    assert facts == {
        "array": ("ndarray", [2, 3], 2, "float64 [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]"),
        "frame": ("DataFrame", [3, 2], 3, "3 rows x 2 columns: a, b"),
        "series": ("Series", [3], 3, "int64 [1, 2, 3]"),
        "index": ("RangeIndex", [3], 3, "int64 [0, 1, 2]"),
        "scalar": ("int16", None, None, "np.int16(5)"),
        "dot": ("ndarray", [], None, "float64 1.5"),
    }
    assert told["array"]["size"] == 48
    assert told["frame"]["size"] == int(frame.memory_usage(deep=False).sum())
    assert told["scalar"]["size"] == 2


def test_large_values_are_cut() -> None:
    assert preview("x" * 10**7).endswith("...")
    assert preview(list(range(10**6))).startswith("[0, 1, 2, ")
    assert preview(dict.fromkeys(range(10**5), "v" * 100)).endswith("...")
    assert preview(1 << 10**8) == "<int of 100000001 bits>"
    assert preview(np.zeros((1000, 1000, 10))).startswith("float64 [[[0.0, ")
    assert preview(np.arange(30)).endswith("19, ...]")
    assert preview(np.zeros([1] * 20)) == "float64 ..."
    assert "..." in preview(pd.DataFrame(np.zeros((2, 500))))
    assert preview([[[[[[[[[1]]]]]]]]]) == "[[[[[[[...]]]]]]]"


def test_what_holds_itself_ends() -> None:
    items: list[Any] = [1]
    items.append(items)
    record: dict[str, Any] = {"items": items}
    record["self"] = record
    assert preview(items).startswith("[1, [1, [1, ")
    assert preview(record).startswith("{'items': [1, ")
    assert len(json.dumps(rows(items))) < 20_000


def test_arrays_that_look_larger_than_memory_are_no_trouble() -> None:
    wide = np.broadcast_to(np.float64(1), (10**6, 10**6, 10**6))
    told = listed(wide=wide)["wide"]
    assert (told["shape"], told["size"]) == ([10**6] * 3, None)
    assert shown(wide, 2)["truncated"] is True


def test_a_masked_array_keeps_its_mask_and_a_subclass_is_read_without_its_methods() -> None:
    class Mine(np.ndarray[Any, Any]):
        def tolist(self) -> Any:
            raise ValueError

        def __getitem__(self, _key: object) -> Any:
            raise ValueError

    assert rows(np.ma.array([1, 2], mask=[False, True])) == [1, None]
    assert rows(np.arange(3).view(Mine)) == [0, 1, 2]


# --- hostile objects


def test_what_cannot_show_itself_is_named_by_its_class() -> None:
    def recurse() -> str:
        return recurse()

    def leave() -> str:
        raise SystemExit

    bad = [leave, recurse, hang, int, lambda: b"x", lambda: 1 / 0, lambda: time.sleep(60)]
    for show in bad:
        assert preview(Shows(show)) == "<Shows object>"
        assert preview([1, Shows(show)]) == "[1, <Shows object>]"
    assert preview(Shows(lambda: "x" * 10**8)).endswith("...")
    assert preview(Shows(lambda: "a\n  b\x00\udc80")) == r"a b\x00\udc80"


def test_nobody_looks_at_a_class_or_an_object_through_its_own_eyes() -> None:
    told = listed(touchy=Touchy(), items=[Touchy()], record={Touchy(): Touchy()})
    assert told["touchy"]["type"] == "Touchy"
    assert preview(Touchy) == "<class 'tests.test_kernel_variables.Touchy'>"
    assert "Touchy object" in told["touchy"]["preview"]
    assert told["items"]["preview"].startswith("[<")
    assert len(rows({Touchy(): Touchy()})) == 1
    assert shown(Touchy())["rows"] == []


def test_many_objects_that_hang_take_two_seconds_in_all() -> None:
    start = time.monotonic()
    told = listed(**{f"v{number}": [Shows(hang)] * 5 for number in range(100)}, z=[1, 2])
    assert time.monotonic() - start < 4
    assert len(told) == 101
    start = time.monotonic()
    assert describe({"x": [Shows(hang)] * 50}, "x", 50, 0)["status"] in ("ok", "error")
    assert time.monotonic() - start < 6


def test_what_an_object_prints_while_it_is_shown_goes_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    def show() -> str:
        sys.stdout.write("out")
        sys.stderr.write("err")
        return "shown"

    streams = sys.stdout, sys.stderr
    assert preview(Shows(show)) == "shown"
    assert (sys.stdout, sys.stderr) == streams
    assert capsys.readouterr() == ("", "")


def test_what_other_threads_print_meanwhile_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def show() -> str:
        thread = threading.Thread(target=lambda: sys.stdout.write("from a thread"))
        thread.start()
        thread.join()
        return "shown"

    assert preview(Shows(show)) == "shown"
    assert capsys.readouterr().out == "from a thread"


def test_containers_that_another_thread_changes_are_shown_somehow() -> None:
    record: dict[int, int] = {}
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for number in range(100):
                record[number] = number
            record.clear()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            assert preview(record).startswith(("<dict of ", "{"))
            assert describe({"record": record}, "record", 100, 0)["status"] in ("ok", "error")
    finally:
        stop.set()
        thread.join()


def test_planted_libraries_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor:
        shape = (2, 3)
        nbytes = 24

    class Worse(Tensor):
        @property
        def shape(self) -> Any:  # type: ignore[override]
            hang()

    torch: Any = ModuleType("torch")
    torch.Tensor = Tensor
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "polars", Touchy())
    told = listed(good=Tensor(), bad=Worse())
    good, bad = told["good"], told["bad"]
    assert (good["shape"], good["size"], good["preview"]) == ([2, 3], 24, "Tensor of shape (2, 3)")
    assert (bad["shape"], bad["size"], bad["preview"]) == (None, None, "<Worse object>")


def test_no_library_is_imported() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from kernelgate_kernel.state import variables as v, files;"
        "v.describe_all(dict(a=1, b=[object()]), ()); v.describe(dict(a=[1]), 'a', 1, 0);"
        "assert not {'numpy', 'pandas', 'torch', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(SOURCES)], check=True, timeout=60)


# --- the content of one


def test_a_frame_is_shown_as_records() -> None:
    frame = pd.DataFrame(
        {
            "n": [1, 2, 3],
            "x": [1.5, float("nan"), float("inf")],
            "t": pd.to_datetime(["2020-01-02", None, "2020-01-02T03:04:05"], format="ISO8601"),
            "s": ["a", None, "ü"],
        },
        index=["r", "s", "t"],
    )
    content = shown(frame, 2, 1)
    assert content["rows"] == [
        {"index": "s", "n": 2, "x": None, "t": None, "s": None},
        {"index": "t", "n": 3, "x": None, "t": "2020-01-02T03:04:05", "s": "ü"},
    ]
    assert (content["offset"], content["total"], content["truncated"]) == (1, 3, False)
    assert content["columns"] == ["n", "x", "t", "s"]
    assert content["dtypes"]["n"] == "int64"


def test_columns_of_any_name_have_keys_of_their_own() -> None:
    frame = pd.DataFrame([[1, 2, 3, 4, 5]], columns=["a", "a", 7, ("x", 1), "index"])
    assert rows(frame) == [{"index": 0, "a": 1, "a.2": 2, "7": 3, "('x', 1)": 4, "index.2": 5}]
    levels = pd.DataFrame([[1]], pd.MultiIndex.from_tuples([("u", 1)]), pd.MultiIndex.from_tuples([("v", 2)]))
    assert rows(levels) == [{"index": ["u", 1], "('v', 2)": 1}]


def test_cells_of_every_type_are_json() -> None:
    values = [
        None,
        2**53,
        2**53 + 1,
        -(10**30),
        1 << 10**6,
        b"\xff",
        "\udc80",
        "x" * 5000,
        Decimal("1.5"),
        Fraction(1, 3),
        1 + 2j,
        date(2020, 1, 2),
        datetime(2020, 1, 2, 3, tzinfo=UTC),
        timedelta(days=1),
        Path("a"),
        np.int8(5),
        np.float32("nan"),
        np.longdouble(1.5),
        np.datetime64("NaT"),
        np.datetime64("2020-01-02T03:04:05.123456789"),
        np.bool_(True),
        pd.NA,
        pd.NaT,
        pd.Timestamp("2020-01-02"),
        pd.Timedelta("1h"),
        pd.Interval(0, 1),
        {"a": [1, {2: (3, float("nan"))}], ("k",): 1},
        Point(1, 2),
        Ellipsis,
    ]
    expected = [
        None,
        2**53,
        str(2**53 + 1),
        str(-(10**30)),
        "<int of 1000001 bits>",
        r"b'\xff'",
        r"\udc80",
        "x" * 997 + "...",
        "1.5",
        "1/3",
        "(1+2j)",
        "2020-01-02",
        "2020-01-02T03:00:00+00:00",
        "1 day, 0:00:00",
        "a",
        5,
        None,
        "1.5",
        None,
        "2020-01-02T03:04:05.123456789",
        True,
        None,
        None,
        "2020-01-02T00:00:00",
        "0 days 01:00:00",
        "(0, 1]",
        {"a": [1, {"2": [3, None]}], "('k',)": 1},
        [1, 2],
        "Ellipsis",
    ]
    assert rows(values, 100) == expected
    assert [row["value"] for row in rows(pd.Series(values, dtype=object), 100)] == expected


def test_items_are_shown_from_any_offset() -> None:
    assert rows(list(range(10)), 3, 8) == [8, 9]
    assert rows(tuple(range(10)), 2, 4) == [4, 5]
    assert rows(range(10**12), 2, 10**11) == [10**11, 10**11 + 1]
    assert rows({"a": 1, 2: [3]}, 5, 1) == [{"key": "2", "value": [3]}]
    assert sorted(rows({1, 2, 3})) == [1, 2, 3]
    assert rows(deque([1, 2, 3]), 1, 2) == [3]
    assert rows(Liar([1, 2])) == [1, 2]
    assert rows(pd.Index(["a", "b"]), 5, 1) == ["b"]
    content = shown([1, 2], 5, 10**30)
    assert (content["rows"], content["total"], content["offset"]) == ([], 2, 2**53)


def test_rows_are_at_most_a_thousand_and_never_fewer_than_none() -> None:
    items = list(range(5000))
    assert len(rows(items, 10**9)) == 1000
    assert rows(items, -5, 0) == []
    assert rows(items, 2, -7) == [0, 1]
    assert len(rows(pd.DataFrame({"a": items}), 10**9)) == 1000


def test_arrays_are_shown_as_lists_and_structured_ones_as_records() -> None:
    assert rows(np.arange(6).reshape(3, 2), 2, 1) == [[2, 3], [4, 5]]
    assert rows(np.array([1.0, np.nan])) == [1.0, None]
    assert rows(np.array(5)) == [5]
    assert rows(np.array(["2020-01-01", "NaT"], dtype="M8[ns]")) == ["2020-01-01T00:00:00.000000000", None]
    assert rows(np.array([1 + 2j])) == ["(1+2j)"]
    assert rows(np.array([b"a"])) == ["b'a'"]
    assert rows(np.array([{"a": 1}, None], dtype=object)) == [{"a": 1}, None]
    structured = shown(np.array([(1, 2.5, "x")], dtype=[("a", "i4"), ("b", "f8"), ("c", "U3")]))
    assert structured["rows"] == [{"a": 1, "b": 2.5, "c": "x"}]
    assert structured["columns"] == ["a", "b", "c"]
    assert structured["dtypes"] == {"a": "int32", "b": "float64", "c": "<U3"}
    dated = np.array([("2020-01-01", 1)], dtype=[("t", "M8[D]"), ("n", "i8")])
    assert rows(dated) == [{"t": "2020-01-01", "n": 1}]


def test_texts_and_numbers_have_a_preview_only() -> None:
    for value in ("text", b"bytes", 5, None, Shows(lambda: "x"), json, hang):
        content = shown(value)
        assert (content["rows"], content["total"]) == ([], 0)
        assert "columns" not in content


def test_what_is_too_much_for_one_reply_is_cut() -> None:
    many = shown(pd.DataFrame(np.random.default_rng(0).random((1000, 200))), 1000)
    assert 0 < len(many["rows"]) < 1000
    assert (many["truncated"], many["total"]) == (True, 1000)
    wide = shown(pd.DataFrame(np.zeros((2, 3000))))
    assert (len(wide["columns"]), len(wide["rows"]), wide["truncated"]) == (1000, 2, True)
    assert shown(np.zeros((1000, 1000, 100)), 1000)["truncated"] is True
    assert shown(["😀" * 1000] * 1000, 1000)["truncated"] is True
    nested = shown([[["x" * 1000] * 100] * 100] * 10)
    assert (len(nested["rows"]), nested["truncated"]) == (10, False)
    assert len(json.dumps(nested)) < 200_000


@pytest.mark.parametrize("arguments", [(1, 5, 0), ("a", "5", 0), ("a", 5, None), ("a", True, 0), ("a", 1.5, 0)])
def test_arguments_of_the_wrong_type_are_an_error(arguments: tuple[Any, Any, Any]) -> None:
    reply = describe({"a": 1}, *arguments)
    assert (reply["status"], "unknown" in reply) == ("error", False)


def test_an_unknown_name_is_said_to_be_unknown() -> None:
    reply = describe({"a": 1}, "b\n", 1, 0)
    assert reply == {"status": "error", "reason": r"there is no variable b\n", "unknown": True}


def test_a_private_name_is_shown_when_it_is_asked_for() -> None:
    assert describe({"_a": [1]}, "_a", 1, 0)["variable"]["rows"] == [1]


def test_what_fails_to_be_read_is_an_error() -> None:
    class Broken(pd.DataFrame):  # type: ignore[misc]
        @property
        def iloc(self) -> Any:
            raise ValueError("no")

    reply = describe({"frame": Broken({"a": [1]})}, "frame", 1, 0)
    assert (reply["status"], "unknown" in reply) == ("error", False)


# --- the time limit


@pytest.fixture
def silence() -> Iterator[None]:
    """No timer is set and nobody handles its signal; afterwards what was there is there again."""
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def test_a_block_that_lasts_too_long_is_ended(silence: None) -> None:
    with pytest.raises(OutOfTime), deadline(0.1):
        hang()
    with deadline(5):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_timer_and_the_handler_of_user_code_are_put_back(silence: None) -> None:
    rang: list[int] = []
    signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    handler = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 10, 20)
    with deadline(5):
        time.sleep(0.05)
    remaining, interval = signal.getitimer(signal.ITIMER_REAL)
    assert 5 < remaining < 9.96
    assert interval == 20
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(OutOfTime), deadline(0.2):
        hang()
    time.sleep(0.05)
    assert rang == [1]
    assert signal.getsignal(signal.SIGALRM) is handler


def test_a_blocked_signal_rings_all_the_same_and_is_blocked_again() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    try:
        with pytest.raises(OutOfTime), deadline(0.05):
            hang()
        assert signal.SIGALRM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


def test_the_outer_one_of_two_time_limits_holds_even_if_the_inner_one_is_swallowed() -> None:
    swallowed = 0
    start = time.monotonic()

    def swallow() -> None:
        nonlocal swallowed
        while True:
            try:
                with deadline(60 if swallowed else 0.05):
                    hang()
            except OutOfTime:
                swallowed += 1

    with pytest.raises(OutOfTime), deadline(0.2):
        swallow()
    assert swallowed >= 1
    assert time.monotonic() - start < 5


def test_code_that_swallows_the_first_alarm_hears_the_next() -> None:
    def stubborn() -> None:
        try:
            hang()
        except OutOfTime:
            hang()

    with pytest.raises(OutOfTime), deadline(0.05):
        stubborn()


def test_a_stray_alarm_is_not_the_end_of_the_time() -> None:
    with deadline(5):
        signal.raise_signal(signal.SIGALRM)


def test_elsewhere_than_in_the_main_thread_there_is_no_time_limit_to_be_had(silence: None) -> None:
    errors: list[Exception] = []
    results: list[str] = []

    def work() -> None:
        try:
            with deadline(1):
                pass
        except ValueError as error:
            errors.append(error)
        results.append(Guard(1).attempt("default", str, 5))

    signal.setitimer(signal.ITIMER_REAL, 50)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 40
    assert (len(errors), results) == (1, ["default"])


def test_time_limits_of_microseconds_leave_nothing_behind(silence: None) -> None:
    late = 0
    for number in range(3000):
        try:
            with deadline(number % 60 * 1e-6):
                try:
                    with deadline(number % 7 * 5e-6):
                        sum(range(200))
                except OutOfTime:
                    late += 1
                sum(range(200))
        except OutOfTime:
            late += 1
    assert late > 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
