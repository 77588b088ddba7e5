"""JupyterLab in a real browser, before a gateway; and a relay whose connections a test cuts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import nbformat
import pytest
import requests
from playwright.sync_api import BrowserContext, Error, Locator, Page, Playwright, Route, expect

from tests.server import START_SECONDS, STOP_SECONDS, Json, wait_for
from tests.services import free_port

T = TypeVar("T")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TOKEN = "token-of-the-tests-jupyterlab"
SOON = 20_000.0
"""Milliseconds in which a page must show what it is waited for."""
LOAD = 60_000.0
"""Milliseconds in which JupyterLab must have loaded, with a kernel."""
COUNTED = re.compile(r"^\[\d+\]:$")
"""The prompt of a cell whose execution has ended."""
CONNECTED = re.compile(r" \| (Idle|Busy)")
OPEN = """async path => {
  await jupyterapp.serviceManager.kernelspecs.refreshSpecs();
  await jupyterapp.commands.execute('docmanager:open', { path });
}"""
"""Opens a notebook in a page, which asks for the kernelspecs once a minute only."""
SHOWS = "path => jupyterapp.shell.currentWidget?.context?.path === path"
"""Tells whether a notebook is what the page shows."""

HARD_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER of a socket whose close resets the connection and drops what is under way."""
USER_SETTINGS: Mapping[str, Json] = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "docmanager-extension/plugin": {"autosave": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


class Relay:
    """Hands connections on to a port of this machine, until a test cuts them."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._down = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> int:
        """Reset all connections; returns how many there were."""
        return self._call(self._cut())

    @contextlib.contextmanager
    def down(self) -> Iterator[int]:
        """Reset all connections, and each new one until this ends; yields how many there were."""
        self._down = True
        try:
            yield self.cut()
        finally:
            self._down = False

    def close(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(STOP_SECONDS)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self._tasks.remove(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._held(writer), contextlib.suppress(OSError):
            if self._down:
                return
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self.target)
            with self._held(their_writer):
                await asyncio.gather(self._pump(reader, their_writer), self._pump(their_reader, writer))

    @contextlib.contextmanager
    def _held(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HARD_CLOSE)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.remove(writer)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()

    async def _cut(self) -> int:
        tasks, count = list(self._tasks), len(self._writers) // 2
        for writer in list(self._writers):
            writer.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return count

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        await self._server.wait_closed()


class JupyterLab:
    """``jupyter lab --gateway-url=…`` with a folder and settings of its own. It calls nobody but the gateway."""

    def __init__(self, gateway_url: str, gateway_token: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kg-lab-"))
        self.notebooks = self.folder / "notebooks"
        self.notebooks.mkdir()
        self._write_settings()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = self.folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *self._arguments(gateway_url)],
                cwd=self.folder,
                env=self._environment(gateway_token),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> JupyterLab:
        """Wait until it answers; fails with its log when it ends instead."""
        with contextlib.suppress(AssertionError):  # the log says more
            wait_for(lambda: self.process.poll() is not None or self._answers(), START_SECONDS)
        assert self._answers(), self.log()
        return self

    def log(self, chars: int = 8000) -> str:
        return self._log.read_text(errors="replace")[-chars:]

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request to its REST API and return the answer, whatever it is."""
        headers = {"Authorization": f"token {TOKEN}"}
        return requests.request(method, self.url + path, headers=headers, timeout=60, **options)

    def write(self, name: str, cells: Sequence[str], kernel: str) -> None:
        """Write a notebook with code cells for the kernelspec ``kernel``."""
        notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
        new_cell = nbformat.v4.new_code_cell
        notebook.cells = [new_cell(code) for code in cells]  # type: ignore[no-untyped-call]
        notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
        nbformat.write(notebook, self.notebooks / name)  # type: ignore[no-untyped-call]

    def sessions(self) -> list[Json]:
        """Return the models of its sessions."""
        answer = self.request("GET", "/api/sessions")
        assert answer.status_code == 200, answer.text
        return list(answer.json())

    def shut_down_kernels(self) -> None:
        """Shut all its kernels down, as a user does."""
        for session in self.sessions():
            answer = self.request("DELETE", f"/api/sessions/{session['id']}")
            assert answer.status_code in (204, 404), answer.text

    def stop(self) -> None:
        """End it, by force when it does not end by itself, and remove its folder."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder)

    def _arguments(self, gateway_url: str) -> list[str]:
        return [
            f"--gateway-url={gateway_url}",
            "--no-browser",
            "--allow-root",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.notebooks}",
            f"--IdentityProvider.token={TOKEN}",
            "--LabApp.expose_app_in_browser=True",
            "--LabApp.extension_manager=readonly",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.news_url=",
            f"--LabApp.user_settings_dir={self.folder / 'settings'}",
            f"--LabApp.workspaces_dir={self.folder / 'workspaces'}",
        ]

    def _environment(self, gateway_token: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            "JUPYTER_GATEWAY_AUTH_TOKEN": gateway_token,
        }

    def _write_settings(self) -> None:
        for plugin, settings in USER_SETTINGS.items():
            path = self.folder / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/api").ok
        except requests.ConnectionError:
            return False


class Browser:
    """Chromium with one page of JupyterLab, in which notebooks are opened one after the other.

    Pages reach nothing but this machine.
    """

    def __init__(self, context: BrowserContext) -> None:
        self._context = context
        self._page: Page | None = None
        self._console: list[str] = []
        self.refused: list[str] = []
        """The addresses beyond this machine that pages have asked for."""
        context.route(lambda url: not url.startswith("http://127.0.0.1:"), self._refuse)

    def open(self, url: str, name: str) -> Notebook:
        """Open the notebook ``name`` of the JupyterLab at ``url``; returns when it has a kernel."""
        if self._page is None:
            self._page = self._new_page()
            workspace = name.partition(".")[0]
            self._page.goto(f"{url}/lab/workspaces/{workspace}/tree/{name}?token={TOKEN}", timeout=LOAD)
        else:
            self._page.evaluate(OPEN, name)
        notebook = Notebook(self._page)
        notebook.wait_connected()
        self._page.wait_for_function(SHOWS, arg=name, timeout=LOAD)
        return notebook

    def close_notebook(self) -> None:
        """Close the notebook that is shown, without asking whether to save it."""
        if self._page is None:
            return
        if Notebook(self._page).dialogs.count():
            self.discard()
        else:
            self._page.evaluate("jupyterapp.shell.currentWidget.dispose()")

    def discard(self) -> None:
        """Close the page: the next notebook gets one that is new."""
        if self._page is not None:
            self._page.close()
        self._page = None

    def state(self) -> str:
        """Return what a failing test has to show of the page."""
        try:
            text = "none" if self._page is None else self._page.locator("body").inner_text(timeout=2000)
        except Error as error:
            text = f"no text: {error}"
        return "\n".join(["--- page", text[-6000:], "--- console", *self._console[-60:]])

    def _refuse(self, route: Route) -> None:
        self.refused.append(route.request.url)
        route.abort()

    def _new_page(self) -> Page:
        page = self._context.new_page()
        self._console.clear()
        page.on("console", lambda message: self._console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._console.append(f"error: {error}"))
        page.on("dialog", lambda dialog: dialog.accept())  # what asks whether to leave a page that was changed
        return page


class Notebook:
    """The notebook that a page shows, used with mouse and keyboard."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        self.dialogs = page.locator(".jp-Dialog")

    def reload(self) -> None:
        """Load the page again; returns when the notebook has a kernel."""
        self.page.reload(timeout=LOAD)
        self.wait_connected()

    # ---- what it shows

    def cell(self, index: int) -> Locator:
        return self.panel.locator(".jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """What the cell put out, all of it."""
        return self.cell(index).locator(".jp-Cell-outputArea")

    def texts(self, index: int) -> list[str]:
        """The cell's outputs, one by one, as the page shows them."""
        return self.cell(index).locator(".jp-OutputArea-output pre").all_inner_texts()

    def wait_output(self, index: int, text: str, timeout: float = SOON) -> None:
        """Wait until the outputs of the cell contain ``text``."""
        expect(self.output(index)).to_contain_text(text, timeout=timeout)

    def wait_texts(self, index: int, texts: Sequence[str], timeout: float = SOON) -> None:
        """Wait until the cell has ended and its outputs are ``texts``, no more and no less."""
        self.wait_ended(index, timeout)
        outputs = self.cell(index).locator(".jp-OutputArea-output pre")
        with contextlib.suppress(AssertionError):  # what is shown then says more
            expect(outputs).to_have_text(list(texts), timeout=SOON / 4)
        assert [text.strip() for text in self.texts(index)] == [text.strip() for text in texts]

    def wait_ended(self, index: int, timeout: float = SOON) -> None:
        """Wait until the page has the reply of the cell's execution."""
        expect(self.cell(index).locator(".jp-InputPrompt").first).to_have_text(COUNTED, timeout=timeout)

    def wait_running(self, index: int) -> None:
        expect(self.cell(index).locator(".jp-InputPrompt").first).to_have_text("[*]:", timeout=SOON)

    def wait_connected(self) -> None:
        """Wait until the notebook is shown, with a kernel that has said what it does."""
        expect(self.cell(0)).to_be_visible(timeout=LOAD)
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text(CONNECTED, timeout=LOAD)

    # ---- what a user does

    def run(self, index: int) -> None:
        """Click into the cell and run it. Does not wait for its end."""
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def choose(self, menu: str, item: str) -> None:
        """Choose an item of the menu bar."""
        self.page.locator(".lm-MenuBar-item", has_text=menu).click()
        self.page.locator(".lm-Menu-item", has_text=item).first.click()

    def accept(self) -> None:
        """Press the main button of the dialog that is shown."""
        self.dialogs.locator("button.jp-mod-accept").click()
        expect(self.dialogs).to_have_count(0, timeout=SOON)


@contextlib.contextmanager
def chromium(playwright: Playwright) -> Iterator[BrowserContext]:
    """Start the system's Chromium."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail(f"none of {', '.join(BROWSERS)} is installed: run 'make browser'", pytrace=False)
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium refuses to sandbox what root starts
    browser = playwright.chromium.launch(executable_path=found, args=sandbox)
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    try:
        yield context
    finally:
        context.close()
        browser.close()
