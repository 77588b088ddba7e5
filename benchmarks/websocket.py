"""The WebSocket of a kernel: ours, the stock gateway's, and the bare kernels behind them, in rounds."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import bare, gate, latency, peer, process
from benchmarks.bare import BareKernel
from benchmarks.connection import Connection
from benchmarks.frames import KernelSocket
from benchmarks.gate import HEADERS, Gate
from benchmarks.load import JOIN_SECONDS, Sample
from benchmarks.process import ChildEnded
from benchmarks.table import Rounds, Row, quantile, spread

SUM = "1+1"
MOST_TIMES_BARE = 1.8
MOST_TIMES_STOCK = 0.25
WHOLE_CPU = "100000"
CLIENTS = 50
QUICK_CLIENTS = 8
STOCK_SILENCE = 5.0
OWN_SILENCE = 30.0
NO_LIMITS = "--ZMQChannelsWebsocketConnection.limit_rate=False"
MARK = "~"
"""A character that stands in outputs only: code makes it of its number."""

DISPLAYS = "for n in range({}): display({{'text/plain': chr(126) + str(n) + chr(126)}}, raw=True)"
LINE = 1 << 16
PRINTS = f"line = chr(126) * {LINE - 1}\nfor _ in range({{}}): print(line)"
NUMBER = re.compile(rb"~(\d+)~")


@dataclass(frozen=True)
class Site:
    """A server with Jupyter's routes."""

    name: str
    port: int
    headers: dict[str, str]
    settle: Callable[[], None] = field(default=lambda: None)
    """Waits until nothing goes on there."""
    ours: bool = False

    @property
    def silence(self) -> float:
        """Seconds without a message after which what is missing is lost."""
        return OWN_SILENCE if self.ours else STOCK_SILENCE

    def connect(self) -> Connection:
        return Connection(self.port, self.headers)

    def start_kernel(self) -> str:
        """Return the id of a new kernel."""
        with closing(self.connect()) as connection:
            status, answer = connection.request("POST", "/api/kernels", {})
        if status != 201:
            raise ChildEnded(f"{self.name} started no kernel: {status} {answer}")
        return str(answer["id"])

    def end_kernel(self, kernel_id: str) -> None:
        with closing(self.connect()) as connection:
            connection.request("DELETE", f"/api/kernels/{kernel_id}")

    def open(self, kernel_id: str, *, v1: bool = True) -> KernelSocket:
        return KernelSocket(self.port, kernel_id, self.headers, v1=v1)

    @contextmanager
    def kernel(self) -> Iterator[str]:
        """Start a kernel that answers; then end it."""
        kernel_id = self.start_kernel()
        with closing(self.open(kernel_id)) as client:
            client.kernel_info()
            client.result(SUM)
        try:
            yield kernel_id
        finally:
            self.end_kernel(kernel_id)


@dataclass
class Flood:
    """What came of a cell with a lot of output."""

    seconds: float = 0.0
    count: int = 0
    """Displays that came in their place, or characters."""
    replied: bool = False
    idle: bool = False

    @property
    def complete(self) -> bool:
        return self.replied and self.idle

    def text(self, expected: int, per_second: str) -> str:
        share = "all" if self.count == expected else f"{100 * self.count / expected:.0f} %"
        ends = "" if self.complete else ", no reply" * (not self.replied) + ", no idle" * (not self.idle)
        return f"{per_second}, {share} came{ends}"


def measure(quick: bool) -> list[Row]:
    """Return the rows of everything that goes through a WebSocket."""
    with ExitStack() as running:
        own = own_site(running.enter_context(gate.serving(MAX_CPU_QUOTA=WHOLE_CPU)))
        stock = running.enter_context(stock_site())
        unlimited = running.enter_context(stock_site("stock, its limits off", NO_LIMITS))
        own.settle()
        rows = [
            *one_cell(own, stock, quick),
            *first_answers(own, stock, quick),
            *floods((own, stock, unlimited), quick),
        ]
    return [*rows, crowd(quick)]


# ---- one small cell


def one_cell(own: Site, stock: Site, quick: bool) -> list[Row]:
    """Measure ``1+1`` until reply and idle status are there."""
    rounds, calls = (3, 10) if quick else (10, 40)
    things: dict[str, latency.Round] = {}
    with ExitStack() as running:
        things["bare"] = several_bare(running.enter_context(bare.kernel()), calls)
        things["container"] = several_bare(running.enter_context(contained_kernel()), calls)
        for site in (own, stock):
            for protocol in ("v1", "legacy"):
                kernel_id = running.enter_context(site.kernel())  # of its own: messages go to all clients of one
                client = running.enter_context(closing(site.open(kernel_id, v1=protocol == "v1")))
                client.kernel_info()
                things[f"{site.name} {protocol}"] = several_sums(client, calls)
        samples = latency.take_turns(rounds, things)
    return cell_rows(samples)


def cell_rows(samples: dict[str, Rounds]) -> list[Row]:
    """Return the rows of ``1+1``."""
    base = samples["bare"]
    rows = [
        Row(f"{SUM}: stock ipykernel over ipc, no container", base.text(), 1.0),
        Row(
            f"{SUM}: our kernel in its container, no gateway",
            samples["container"].text(),
            samples["container"].ratio(base),
        ),
    ]
    for protocol in ("v1", "legacy"):
        ours, theirs = samples[f"kernelgate {protocol}"], samples[f"stock {protocol}"]
        times_bare, times_stock = ours.ratio(base), ours.ratio(theirs)
        met = times_bare <= MOST_TIMES_BARE and times_stock <= MOST_TIMES_STOCK
        target = f"<= {MOST_TIMES_BARE} x bare, <= {MOST_TIMES_STOCK} x stock"
        result = f"{ours.text()}, {times_stock:.2f} x stock"
        rows.append(Row(f"{SUM}: kernelgate, WebSocket {protocol}", result, times_bare, target, met))
        rows.append(Row(f"{SUM}: stock gateway, WebSocket {protocol}", theirs.text(), theirs.ratio(base)))
    return rows


def several_bare(kernel: BareKernel, calls: int) -> latency.Round:
    def sample() -> float:
        began = time.perf_counter()
        if kernel.run(SUM, bare.ANSWER_SECONDS) is None:
            raise ChildEnded("a bare kernel does not answer")
        return time.perf_counter() - began

    return lambda: latency.several(sample, calls)


def several_sums(client: KernelSocket, calls: int) -> latency.Round:
    def sample() -> float:
        began = time.perf_counter()
        text = client.result(SUM)
        seconds = time.perf_counter() - began
        if text != "2":
            raise ChildEnded(f"{SUM} is {text!r}")
        return seconds

    return lambda: latency.several(sample, calls)


@contextmanager
def contained_kernel() -> Iterator[BareKernel]:
    """Give a client of a kernel in one of our containers, past the server that has started it."""
    with gate.serving(MAX_CPU_QUOTA=WHOLE_CPU, CONTAINER_POOL_PY_MIN="1") as server:
        server.settle()
        (connection_file,) = server.runtime.glob("*/*/gateway.json")
        info = json.loads(Path(connection_file).read_text())
        kernel = BareKernel(info["ip"], info["key"].encode())
        try:
            kernel.wait_ready()
            yield kernel
        finally:
            kernel.close()


# ---- the first cell of a new kernel


def first_answers(own: Site, stock: Site, quick: bool) -> list[Row]:
    """Measure from ``POST /api/kernels`` to the first reply."""
    rounds = 2 if quick else 5
    samples = latency.take_turns(rounds, {site.name: partial(first_answer, site) for site in (own, stock)})
    ours, theirs = samples[own.name], samples[stock.name]
    return [
        Row(
            "new kernel to its first reply: kernelgate, from the pool",
            f"{ours.text()}, {ours.ratio(theirs):.2f} x stock",
        ),
        Row("new kernel to its first reply: stock gateway", theirs.text()),
    ]


def first_answer(site: Site) -> list[float]:
    """Return the seconds from asking for a kernel to the answer of its first cell: a round of one sample."""
    site.settle()
    began = time.perf_counter()
    kernel_id = site.start_kernel()
    with closing(site.open(kernel_id)) as client:
        client.kernel_info()
        client.result(SUM)
        seconds = time.perf_counter() - began
    site.end_kernel(kernel_id)
    return [seconds]


# ---- a cell with a lot of output


def floods(sites: Sequence[Site], quick: bool) -> list[Row]:
    """Measure 20,000 displays, and 100 MB of print. What a gateway loses does not count for its speed."""
    displays, megabytes = (5_000, 20) if quick else (20_000, 100)
    rows = []
    for site in sites:
        with site.kernel() as kernel_id:
            shown = flood_of_displays(site, kernel_id, displays)
            printed = flood_of_prints(site, kernel_id, megabytes)
        size = (megabytes << 20) // LINE * (LINE - 1)
        per_second = f"{shown.count / shown.seconds:.0f} messages/s"
        rows.append(flood_row(site, f"{displays} displays", shown, displays, per_second))
        per_second = f"{printed.count / printed.seconds / (1 << 20):.1f} MB/s"
        rows.append(flood_row(site, f"{megabytes} MB of print", printed, size, per_second))
    return sorted(rows, key=lambda row: row.what)


def flood_row(site: Site, what: str, flood: Flood, expected: int, per_second: str) -> Row:
    text = flood.text(expected, per_second)
    if not site.ours:
        return Row(f"{what}: {site.name}", text)
    return Row(f"{what}: {site.name}", text, target="all", met=flood.complete and flood.count == expected)


def flood_of_displays(site: Site, kernel_id: str, count: int) -> Flood:
    flood = Flood()

    def take(payload: bytes) -> None:
        found = NUMBER.search(payload)
        flood.count += found is not None and int(found[1]) >= flood.count

    return timed(site, kernel_id, DISPLAYS.format(count), flood, take)


def flood_of_prints(site: Site, kernel_id: str, megabytes: int) -> Flood:
    flood = Flood()

    def take(payload: bytes) -> None:
        flood.count += payload.count(MARK.encode())

    return timed(site, kernel_id, PRINTS.format((megabytes << 20) // LINE), flood, take)


def timed(site: Site, kernel_id: str, code: str, flood: Flood, take: Callable[[bytes], None]) -> Flood:
    """Run code that floods; the time ends with the last message that came."""
    with closing(site.open(kernel_id)) as client:
        client.kernel_info()
        began = time.perf_counter()
        flood.replied, flood.idle = client.flood(code, MARK.encode(), take, site.silence)
        flood.seconds = time.perf_counter() - began - (0 if flood.complete else site.silence)
    return flood


# ---- many clients


class CellClient(threading.Thread):
    """Runs cell after cell in a kernel of its own, each with an answer that no other cell has."""

    def __init__(self, client: KernelSocket, numbers: Iterator[int], until: float) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._client = client
        self._numbers = numbers
        self._until = until

    def run(self) -> None:
        while time.perf_counter() < self._until:
            number = next(self._numbers)
            began = time.perf_counter()
            try:
                text = self._client.result(f"1+{number}")
                error = "" if text == str(number + 1) else f"wrong: 1+{number} is {text!r}"
            except OSError as failure:
                error = f"{type(failure).__name__}: {failure}"
            self.samples.append(Sample(began, time.perf_counter(), error))
            if error and not error.startswith("wrong"):
                break


def crowd(quick: bool) -> Row:
    """Measure clients that all run cells at once, each in a kernel of its own."""
    count, seconds = (QUICK_CLIENTS, 2.0) if quick else (CLIENTS, 8.0)
    with ExitStack() as running:
        server = running.enter_context(gate.serving(MAX_LIVE_KERNELS=str(count + 2)))
        site = own_site(server)
        clients = []
        for _ in range(count):
            client = running.enter_context(closing(site.open(site.start_kernel())))
            client.result(SUM)
            clients.append(client)
        site.settle()
        numbers = itertools.count(10**6)
        began = time.perf_counter()
        samples = together([CellClient(client, numbers, began + seconds) for client in clients])
    return crowd_row(count, samples, began)


def together(clients: Sequence[CellClient]) -> list[Sample]:
    """Run all clients at once and return their samples."""
    for client in clients:
        client.start()
    for client in clients:
        while client.is_alive():
            client.join(JOIN_SECONDS)
    return [sample for client in clients for sample in client.samples]


def crowd_row(count: int, samples: Sequence[Sample], began: float) -> Row:
    good = [sample.ended - sample.began for sample in samples if not sample.error]
    wrong = sum(sample.error.startswith("wrong") for sample in samples)
    errors = Counter(sample.error[:70] for sample in samples if sample.error)
    rate = len(good) / (max(sample.ended for sample in samples) - began)
    result = f"{rate:.0f}/s, {spread(quantile(good, 0.5), quantile(good, 0.95)) if good else 'no answer'}, "
    result += f"{len(samples)} cells, {sum(errors.values()) - wrong} errors, {wrong} wrong"
    if errors:
        result += f" ({errors.most_common(1)[0][0]})"
    return Row(f"{count} clients, a kernel each, {SUM}", result, target="nothing wrong or refused", met=not errors)


# ---- the servers


def own_site(server: Gate) -> Site:
    server.connect().close()
    return Site("kernelgate", server.port, HEADERS, server.settle, ours=True)


@contextmanager
def stock_site(name: str = "stock", *options: str) -> Iterator[Site]:
    """Run the stock kernel gateway."""
    with process.folder() as home:
        port = process.free_port()
        folders = {name: str(home / name) for name in peer.FOLDERS}
        command = [
            "kernel_gateway",
            "--KernelGatewayApp.ip=127.0.0.1",
            f"--KernelGatewayApp.port={port}",
            *options,
        ]
        with process.started(command, home, process.environment(frozenset(), **folders)):
            peer.connect(port).close()
            yield Site(name, port, {})
