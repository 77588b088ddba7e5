"""Values of a namespace as one stream of bytes, and back.

The stream: a header; a pickle for each value, all with one memo, so that what two values share is shared again; a
table that says where each pickle begins. Each value travels in a list of its own, which is the first object of its
pickle: the number of that list in the memo tells how long the memo was.

A value that cannot be saved leaves no trace: stream, buffers and memo are cut back to where it began. A value that
cannot be loaded leaves holes in the memo: what refers to them is lost too, all else is loaded.
"""

from __future__ import annotations

from _pickle import PickleBuffer, Unpickler, UnpicklingError
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from gc import disable as disable_collector
from gc import enable as enable_collector
from gc import isenabled as is_collector_enabled
from itertools import chain, islice
from marshal import dumps as marshal
from marshal import loads as unmarshal
from struct import Struct
from sys import getrecursionlimit, setrecursionlimit
from time import monotonic
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from .deadline import OutOfTime, deadline
from .guard import Guard
from .libraries import class_name, classes, is_a
from .modules import MAIN, is_importable
from .modules import begin as begin_with_modules
from .reduce import BUILTINS, StatePickler
from .reduce_arrays import array_owners
from .reduce_classes import QUALNAME
from .reduce_context import Context, Refused, TooLarge, is_found, module_of
from .reduce_values import REFUSED_BY_ID
from .text import MAX_TEXT, printable

OUT_OF_BAND = 64 << 10
"""Buffers of fewer bytes are part of the main stream."""

RECURSION_LIMIT = 3000
"""While values are saved. C code nests as deep: some ten thousand would overflow the stack of the process."""

SPECIAL = "\0"
"""Labels that begin so are no names of the user."""

MB = 1 << 20
ITEM_BYTES = 48
"""What a value costs in the table, besides its name."""

SUSPECT_SHARE = 0.25
FIRST_SHARE = 0.5
SMALL_SHARE = 0.125
"""Parts of the time: for one value that failed before; for all values together; of what is left, for each value,
when all together took too long."""

LARGE_MEMO = 10_000
"""Objects in the memo. To go through more of them for each value that fails takes longer than to try it alone."""

LARGE = 1000
"""Items of a container that is saved after the others, so that what fails does so while the memo is small."""

FORMAT = b"KGstate1"
HEADER = Struct("<8sQ")
PRELUDE = b"\x80\x05\x97\x940\x97\x94."
"""A pickle: takes two buffers, which are the namespace and the builtins, and remembers them as numbers 0 and 1."""

EMPTY = b"N."
TAKE_AS = Struct("<2sI1s")
"""Takes the next buffer, remembers it as that number, drops it."""


@dataclass(frozen=True)
class Failure:
    """A value that is left out: its label; type and reason are printable and at most 200 characters long."""

    name: str
    type: str
    reason: str


@dataclass
class Dump:
    """``buffers`` are views of the memory of the values, in the order in which `load` wants them."""

    main: bytearray
    buffers: list[memoryview]
    names: list[str]
    failed: list[Failure]
    dill: str | None


@dataclass
class Loaded:
    values: dict[str, Any]
    lost: list[Failure]


def dump(
    items: Sequence[tuple[str, Any]],
    namespace: dict[str, Any],
    max_bytes: int,
    seconds: float,
    suspects: Collection[str] = (),
) -> Dump:
    """Save values, each under its label.

    ``namespace`` is the globals of the user's functions. Values whose labels are ``suspects`` failed before: they
    are tried alone first, as failing in the middle costs more. Raises nothing for what a value does.
    """
    with quiet_interpreter(RECURSION_LIMIT):
        return _Dumping(items, namespace, max_bytes, seconds).run(suspects)


def load(main: bytes | bytearray | memoryview, buffers: Sequence[bytearray], namespace: dict[str, Any]) -> Loaded:
    """Load what `dump` saved.

    While it lasts, what is loaded already is in ``namespace``, as code that is part of the state may need it;
    afterwards the namespace is as it was.

    Raises ValueError when this is no stream of `dump`, and OutOfTime of a deadline around it.
    """
    stream = memoryview(main).cast("B")
    table = _Table.read(stream)
    if len(buffers) != table.buffers[-1]:
        raise ValueError(f"{len(buffers)} buffers, but the stream has {table.buffers[-1]}")
    with quiet_interpreter(getrecursionlimit()):
        return _Loading(stream, table, buffers, namespace).run()


@contextmanager
def quiet_interpreter(recursion_limit: int) -> Iterator[None]:
    """Set the recursion limit and turn off the collector, which would look at the same objects again and again."""
    limit, collecting = getrecursionlimit(), is_collector_enabled()
    setrecursionlimit(recursion_limit)
    disable_collector()
    try:
        yield
    finally:
        with suppress(RecursionError):  # a limit below the depth that we are at
            setrecursionlimit(limit)
        if collecting:
            enable_collector()


# --- saving


class Sink:
    """Takes the main stream and the buffers beside it, and no more bytes than there is room for."""

    def __init__(self, room: int) -> None:
        self.main = bytearray()
        self.buffers: list[memoryview] = []
        self.taken = 0
        self.room = room

    def write(self, data: bytes) -> None:
        self.take(len(data))
        self.main += data

    def take_buffer(self, buffer: PickleBuffer) -> bool:
        """Take a buffer; return True when it is so small that it belongs into the main stream."""
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND:
            return True
        self.take(view.nbytes)
        self.buffers.append(view)
        return False

    def take(self, size: int) -> None:
        self.taken += size
        if self.taken > self.room:
            raise TooLarge

    def left(self) -> int:
        return self.room - self.taken

    def cut(self, main: int, buffers: int, taken: int) -> None:
        """Drop what was written after."""
        del self.main[main:], self.buffers[buffers:]
        self.taken = taken


class Scale(Sink):
    """Counts bytes and keeps none."""

    def write(self, data: bytes) -> None:
        self.take(len(data))

    def take_buffer(self, buffer: PickleBuffer) -> bool:
        with buffer.raw() as view:
            if view.nbytes < OUT_OF_BAND:
                return True
            self.take(view.nbytes)
            return False


class _Item:
    def __init__(self, position: int, label: str, value: Any) -> None:
        self.position = position  # among the items of the caller
        self.label = label
        self.wrapper = [value]
        self.had = 0.0  # seconds that it was given already

    @property
    def value(self) -> Any:
        return self.wrapper[0]


class _Dumping:
    """One dump. ``_queue`` has the items to save: the first ``len(_done)`` of them are saved."""

    def __init__(
        self, items: Sequence[tuple[str, Any]], namespace: dict[str, Any], max_bytes: int, seconds: float
    ) -> None:
        self._seconds = seconds
        self._end = monotonic() + seconds
        self._max_bytes = max_bytes
        self._sink = Sink(max_bytes)
        self._sink.main += bytes(HEADER.size) + PRELUDE
        self._arrays = classes("numpy", "ndarray")
        self._items = [_Item(position, label, value) for position, (label, value) in enumerate(items)]
        self._context = Context(namespace)
        begin_with_modules()
        attempt(seconds * SMALL_SHARE, self._look)
        self._pickler = StatePickler(self._sink, self._context, self._arrays)
        self._queue: list[_Item] = []
        self._done = [(len(self._sink.main), 0, 0)]  # where values end: stream, buffers, bytes of both
        self._started = 0.0
        self._careful = False  # try each value alone first
        self._failures: dict[int, Failure] = {}
        self._guard = Guard(seconds)

    def _look(self) -> None:
        """Find what functions may have as globals, and arrays that share memory."""
        context, arrays = self._context, []
        for item in self._items:
            kind = type(item.value)
            if kind is ModuleType and not is_importable(item.value):
                context.homes[id(item.value.__dict__)] = item.value
            elif kind is dict and "__builtins__" in item.value:  # it was given to exec
                context.homes[id(item.value)] = item.value
            elif any(kind is each for each in self._arrays):
                arrays.append(item.value)
        if len(arrays) > 1:
            context.owners = array_owners(arrays)

    def run(self, suspects: Collection[str]) -> Dump:
        for item in self._items:
            reason = REFUSED_BY_ID.get(id(type(item.value)))
            seconds = min(self._seconds * SUSPECT_SHARE, self._left() - self._seconds * FIRST_SHARE)
            error: BaseException | None = None if reason is None else Refused(reason)
            if error is None and item.label in suspects and seconds > 0:
                error = self._try_alone(item, seconds)
            if error is None:
                self._queue.append(item)
            else:
                self._fail(item, error, seconds)
        self._queue.sort(key=_rank)
        self._save_slow(self._save_queue())
        return self._finish()

    def _left(self) -> float:
        return self._end - monotonic()

    def _try_alone(self, item: _Item, seconds: float) -> BaseException | None:
        """Return what is raised when a value is saved and nothing kept of it."""
        pickler = StatePickler(Scale(self._max_bytes), self._context.copy(), self._arrays)
        return attempt(seconds, pickler.dump, item.wrapper)

    def _save_queue(self) -> list[_Item]:
        """Save all; return what was not ready when its time was over.

        All together at first. One by one after the time for that is over, each with its share, or when it became
        costly to take back what fails: then each is tried alone before.
        """
        slow: list[_Item] = []
        end = monotonic() + self._left() * FIRST_SHARE
        while len(self._done) <= len(self._queue):
            place, left = len(self._done) - 1, self._left()
            if left <= 0:
                return slow + self._drop(place)
            seconds = max(end - monotonic(), left * SMALL_SHARE)
            error = self._try_alone(self._queue[place], seconds) if self._careful else None
            if error is not None:
                self._queue[place].had = seconds
                failed = [self._queue.pop(place)]
            else:
                error = attempt(seconds, self._advance, not self._careful and monotonic() < end)
                failed = [] if error is None else self._take_back(error)
            if isinstance(error, OutOfTime):
                slow += failed
            elif error is not None:
                for item in failed:
                    self._fail(item, error)
        return slow

    def _drop(self, place: int) -> list[_Item]:
        """Take all from ``place`` on out of the queue."""
        dropped = self._queue[place:]
        del self._queue[place:]
        return dropped

    def _save_slow(self, slow: list[_Item]) -> None:
        """Give each value that was not ready a fair part of what time is left, if that is more than it had."""
        for count, item in enumerate(slow):
            seconds = max(self._left(), 0.0) / (len(slow) - count)
            if seconds <= item.had:
                self._fail(item, OutOfTime(), item.had)
                continue
            self._queue.append(item)
            error = attempt(seconds, self._advance, False)
            if error is not None and len(self._done) <= len(self._queue):
                self._take_back(error)
                self._drop(len(self._done) - 1)
                self._fail(item, error, seconds)

    def _advance(self, together: bool) -> None:
        """Save the next value, or ``together`` all that are left."""
        done, sink, save = self._done, self._sink, self._pickler.dump
        for item in islice(self._queue, len(done) - 1, None):
            self._context.commit()
            sink.taken += ITEM_BYTES + len(item.label)
            self._started = monotonic()
            save(item.wrapper)
            done.append((len(sink.main), len(sink.buffers), sink.taken))
            if not together:
                return

    def _take_back(self, error: BaseException) -> list[_Item]:
        """Cut back what was written of the value that is being saved, and take it out of the queue.

        Return it, or nothing when the time was over between two values.
        """
        place = len(self._done) - 1
        if place == len(self._queue):
            return []
        item, had = self._queue[place], monotonic() - self._started
        self._sink.cut(*self._done[-1])
        self._context.forget()
        memo = self._pickler.memo.copy()
        self._careful = self._careful or len(memo) > LARGE_MEMO
        number, _ = memo.get(id(item.wrapper), (None, None))
        if number is None and isinstance(error, OutOfTime):
            return []
        if number is not None:
            self._pickler.memo = {key: entry for key, entry in memo.items() if entry[0] < number}
        item.had = had
        return [self._queue.pop(place)]

    def _fail(self, item: _Item, error: BaseException, seconds: float = 0.0) -> None:
        if isinstance(error, TooLarge):
            left = max(self._max_bytes - self._sink.taken, 0) / MB
            reason = (
                f"too large: more than the {left:.1f} MB that were left of {self._max_bytes / MB:g} MB for all"
            )
        elif isinstance(error, OutOfTime):
            reason = f"took longer than {seconds:.2g} s" if seconds > 0 else "no time was left for it"
        else:
            reason = failure_reason(error, self._guard)
        self._failures[item.position] = Failure(item.label, type_name(item.value), printable(reason))

    def _finish(self) -> Dump:
        """Add the table."""
        main = self._sink.main
        queue = self._queue
        table = (
            [item.label for item in queue],
            [type_name(item.value) for item in queue],
            [item.position for item in queue],
            [end for end, _, _ in self._done],
            [buffers for _, buffers, _ in self._done],
            self._numbers(),
        )
        HEADER.pack_into(main, 0, FORMAT, len(main))
        main += marshal(table)
        saved = sorted(queue, key=lambda item: item.position)
        failed = [self._failures[position] for position in sorted(self._failures)]
        names = [item.label for item in saved]
        return Dump(main, self._sink.buffers, names, failed, self._context.dill)

    def _numbers(self) -> list[int]:
        """Return the number of each wrapper in the memo, and how many objects there are before the end."""
        end: list[Any] = []
        self._sink.main, self._sink.room = bytearray(), 1 << 62
        self._pickler.dump(end)
        return [self._number(wrapper) for wrapper in (*(item.wrapper for item in self._queue), end)]

    def _number(self, wrapper: list[Any]) -> int:
        """Return the number of an object that the memo has, which is all that the pickler writes of it."""
        self._sink.main.clear()
        self._pickler.dump(wrapper)
        written = self._sink.main
        return written[-2] if len(written) == SHORT_REFERENCE else int.from_bytes(written[-5:-1], "little")


def attempt(seconds: float, function: Callable[..., Any], *args: Any) -> BaseException | None:
    """Call what may run user code; return what it raises."""
    try:
        with deadline(seconds):
            function(*args)
    except BaseException as error:  # noqa: BLE001  user code raises what it likes: SystemExit, an error of its own
        return BaseException.with_traceback(error, None)
    return None


def _rank(item: _Item) -> int:
    """Modules, functions and classes come first: what is loaded later may need them while it is loaded."""
    kind = type(item.value)
    if kind is ModuleType:
        return 0
    if kind is FunctionType or is_a(item.value, (type,)):
        return 1
    return 3 if (kind is list or kind is dict or kind is set or kind is tuple) and len(item.value) > LARGE else 2


def failure_reason(error: BaseException, guard: Guard) -> str:
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    text = guard.attempt("", error_text, error)
    name = printable(class_name(error))
    return f"{name}: {text}" if text else name


def error_text(error: BaseException) -> str:
    """Return what an exception says. Raises what user code raises."""
    return str.__getitem__(str(error), slice(0, 2 * MAX_TEXT))


def type_name(value: object) -> str:
    """Return the name of the class of a value, with its module unless that says nothing."""
    kind = type(value)
    module, name = module_of(kind), str.__str__(QUALNAME(kind))
    return printable(name if module in (None, "builtins", MAIN) else f"{module}.{name}")


# --- loading


class _Table:
    """Where values are in the stream. ``ends``, ``buffers`` and ``numbers`` begin with the start of the first."""

    def __init__(
        self,
        labels: list[str],
        types: list[str],
        positions: list[int],
        ends: list[int],
        buffers: list[int],
        numbers: list[int],
    ) -> None:
        self.labels = labels
        self.types = types
        self.positions = positions  # among the items of the caller
        self.ends = ends
        self.buffers = buffers
        self.numbers = numbers  # of wrappers in the memo, and its length

    @classmethod
    def read(cls, stream: memoryview) -> _Table:
        if len(stream) < HEADER.size:
            raise ValueError("the state is cut off")
        name, start = HEADER.unpack_from(stream)
        if name != FORMAT or start > len(stream):
            raise ValueError("the state has no known format")
        try:
            table = cls(*unmarshal(stream[start:]))
        except (EOFError, TypeError, ValueError) as error:
            raise ValueError(f"the table of the state is broken: {error}") from None
        lengths = {len(table.ends), len(table.buffers), len(table.numbers)}
        if lengths != {len(table.labels) + 1} or table.ends[-1] > start:
            raise ValueError("the table of the state is broken")
        return table


class Reader:
    """Part of a stream as a file, without a copy of it."""

    def __init__(self) -> None:
        self._stream = memoryview(b"")
        self._position = 0

    def move(self, stream: memoryview, start: int, end: int) -> None:
        self._stream = stream[:end]
        self._position = start

    def read(self, size: int) -> bytes:
        data = bytes(self._stream[self._position : self._position + size])
        self._position += len(data)
        return data

    def readinto(self, target: Any) -> int:
        data = self._stream[self._position : self._position + len(target)]
        target[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readline(self) -> bytes:
        raise UnpicklingError("protocol 5 has no lines")


class _Loading:
    def __init__(
        self, stream: memoryview, table: _Table, buffers: Sequence[bytearray], namespace: dict[str, Any]
    ) -> None:
        self._stream = stream
        self._table = table
        self._buffers = buffers
        self._namespace = namespace
        self._guard = Guard(1.0)
        self._reader = Reader()
        self._unpickler = self._start(chain((namespace, BUILTINS), buffers), memoryview(PRELUDE))
        self._lost: dict[int, Failure] = {}

    def _start(self, buffers: Any, prelude: memoryview) -> Unpickler:
        unpickler = Unpickler(self._reader, buffers=buffers)
        self._reader.move(prelude, 0, len(prelude))
        unpickler.load()
        return unpickler

    def run(self) -> Loaded:
        table, added = self._table, []
        values: dict[int, Any] = {}
        try:
            for index, label in enumerate(table.labels):
                if not self._load(index, values):
                    self._skip(index)
                elif not label.startswith(SPECIAL) and label not in self._namespace:
                    self._namespace[label] = values[table.positions[index]]
                    added.append(label)
        finally:
            for label in added:
                self._namespace.pop(label, None)
        labels = dict(zip(table.positions, table.labels, strict=True))
        ordered = {labels[position]: values[position] for position in sorted(values)}
        return Loaded(ordered, [self._lost[position] for position in sorted(self._lost)])

    def _load(self, index: int, values: dict[int, Any]) -> bool:
        """Load a value, or note why not."""
        table = self._table
        self._reader.move(self._stream, table.ends[index], table.ends[index + 1])
        try:
            (values[table.positions[index]],) = self._unpickler.load()
        except OutOfTime:
            raise
        except BaseException as error:  # noqa: BLE001  user code raises what it likes
            reason = failure_reason(error, self._guard)
            if isinstance(error, UnpicklingError) and NO_SUCH_NUMBER in reason:
                reason = "it shares parts with something that could not be loaded"
            self._lost[table.positions[index]] = Failure(
                table.labels[index], table.types[index], printable(reason)
            )
            return False
        return True

    def _skip(self, index: int) -> None:
        """Go on after a value that could not be loaded, with a memo in which its objects are missing.

        An unpickler numbers objects by how many it has: in place of those that are missing it gets others, with
        numbers that nothing refers to.
        """
        numbers = self._table.numbers
        kept = {
            number: value
            for number, value in self._unpickler.memo.copy().items()
            if number < numbers[index] or (number < numbers[index + 1] and is_whole(value))
        }
        missing = range(numbers[-1], numbers[-1] + numbers[index + 1] - len(kept))
        prelude = b"".join(
            (
                PRELUDE[:2],
                *(TAKE_AS.pack(b"\x97r", number, b"0") for number in kept),
                *(TAKE_AS.pack(b"Nr", number, b"0") for number in missing),
                EMPTY,
            )
        )
        left = islice(self._buffers, self._table.buffers[index + 1], None)
        self._unpickler = self._start(chain(kept.values(), left), memoryview(prelude))


def is_whole(value: Any) -> bool:
    """Tell whether an object has all its parts as soon as it is there, even when a later step fails."""
    kind = type(value)
    if kind in ATOMS or kind is ModuleType:
        return True
    if kind is tuple:
        return all(is_whole(part) for part in value)
    if kind is FunctionType:
        return is_found(value, value.__module__, value.__qualname__)
    if is_a(value, (type,)):
        return is_found(value, module_of(value), QUALNAME(value))
    return module_of(kind) in NUMPY_TYPES


ATOMS = (str, bytes, int, float, complex, BuiltinFunctionType)
NUMPY_TYPES = ("numpy.dtypes",)
NO_SUCH_NUMBER = "Memo value not found"
SHORT_REFERENCE = 5
