"""JupyterLab in a real browser, with this server behind ``--gateway-url``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.jupyterlab import SOON, Browser, JupyterLab, Notebook, Relay, chromium
from tests.server import KEY, Server, Servers, new_id

KERNEL = "kernelgate-python"
MAX_LIVE_KERNELS = 3
AWAY_SECONDS = 1.5
"""Time for which there is no line, and in which the cell puts out more."""
BORN = "open('/proc/self/stat').read().split()[21]"
"""When the kernel's process was started, in Python."""
READ_SECONDS = 0.3
"""Time in which the acknowledgement of what a client has read reaches the server."""
COUNTING = """
import time
for i in range(60):
    print(i, flush=True)
    time.sleep(1 if i == 9 else 0.05)
i"""
COUNTED = ["".join(f"{i}\n" for i in range(60)), "59"]

Open = Callable[..., Notebook]


@pytest.fixture(scope="module")
def gate(servers: Servers) -> Iterator[Server]:
    """The server behind JupyterLab. It has room for few kernels."""
    environment = {
        "MAX_LIVE_KERNELS": str(MAX_LIVE_KERNELS),
        "MAX_EXECUTION_TIME": "60",
        "MAX_CPU_QUOTA": "100000",
    }
    with servers.serving(environment) as server:
        yield server


@pytest.fixture(scope="module")
def line(gate: Server) -> Iterator[Relay]:
    """The way from JupyterLab's server to ours."""
    relay = Relay(gate.port)
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def lab(line: Relay) -> Iterator[JupyterLab]:
    lab = JupyterLab(line.url, KEY)
    try:
        yield lab.wait_ready()
    finally:
        lab.stop()


@pytest.fixture(scope="module")
def front(lab: JupyterLab) -> Iterator[Relay]:
    """The way from the browser to JupyterLab's server."""
    relay = Relay(lab.port)
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser. No page in it may have asked anybody but JupyterLab."""
    with sync_playwright() as playwright, chromium(playwright) as context:
        browser = Browser(context)
        yield browser
        assert browser.refused == []


@pytest.fixture
def open_notebook(
    lab: JupyterLab, front: Relay, browser: Browser, request: pytest.FixtureRequest
) -> Iterator[Open]:
    """Opens a notebook with the cells it is given. In the end it is closed, and its kernel shut down.

    ``fresh_page``: in a page of its own. One that is loaded again shows its notebook again when it sees fit.
    """
    failures, has_own_page = request.session.testsfailed, False

    def open_notebook(*cells: str, kernel: str = KERNEL, fresh_page: bool = False) -> Notebook:
        nonlocal has_own_page
        has_own_page = fresh_page
        name = f"{new_id()}.ipynb"
        lab.write(name, cells, kernel)
        if fresh_page:
            browser.discard()
        return browser.open(front.url, name)

    yield open_notebook
    state = f"{browser.state()}\n--- JupyterLab's server\n{lab.log()}"
    request.node.add_report_section("teardown", "browser", state)
    if request.session.testsfailed > failures or has_own_page:
        browser.discard()
    else:
        browser.close_notebook()
    lab.shut_down_kernels()


def test_a_page_that_is_reloaded_finds_its_kernel_with_all_its_state(open_notebook: Open) -> None:
    """A reload while a cell runs: the cell goes on, the page can interrupt it, and the variables are there."""
    code = "import time\ntry:\n    time.sleep(50)\nexcept KeyboardInterrupt:\n    x += 1"
    notebook = open_notebook("x = 41", code, "print(x)", fresh_page=True)
    notebook.run(0)
    notebook.wait_ended(0)
    notebook.run(1)
    notebook.wait_running(1)
    notebook.reload()
    notebook.run(2)
    notebook.wait_running(2)
    notebook.choose("Kernel", "Interrupt Kernel")
    notebook.wait_texts(2, ["42"])


def test_a_notebook_and_exec_share_a_session(open_notebook: Open, gate: Server) -> None:
    """A session of POST /exec, which a page finds among the kernelspecs: each side sees what the other sets."""
    client, session_id = gate.client(), new_id()
    client.run("x = 41", session_id=session_id)
    notebook = open_notebook("y = x + 1\nprint(y)", "print(z)", kernel=f"session-{session_id}")
    notebook.run(0)
    notebook.wait_texts(0, ["42"])
    assert client.printed("z = y + 1; print(y)", session_id=session_id) == "42\n"
    notebook.run(1)
    notebook.wait_texts(1, ["43"])


def test_a_plot_is_seen_as_a_picture(open_notebook: Open) -> None:
    """A cell that plots: the output has an image that the browser could draw."""
    notebook = open_notebook("import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()")
    notebook.run(0)
    notebook.wait_ended(0, 2 * SOON)
    picture = notebook.output(0).locator("img")
    expect(picture).to_be_visible(timeout=SOON)
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def test_a_restart_from_the_menu_empties_the_namespace(open_notebook: Open) -> None:
    """A variable, then Kernel > Restart: it is gone, and cells run and count from one again."""
    notebook = open_notebook("x = 41\nx", "'x' in globals()")
    notebook.run(0)
    notebook.wait_texts(0, ["41"])
    notebook.choose("Kernel", "Restart Kernel…")
    notebook.accept()
    notebook.run(1)
    notebook.wait_texts(1, ["False"])
    expect(notebook.cell(1).locator(".jp-InputPrompt").first).to_have_text("[1]:")


def test_an_interrupt_from_the_menu_ends_a_busy_loop(open_notebook: Open) -> None:
    """An endless loop, then Kernel > Interrupt: KeyboardInterrupt is shown, and the variables are still there."""
    notebook = open_notebook("x = 41\nprint('started')\nwhile True: pass", "x + 1")
    notebook.run(0)
    notebook.wait_output(0, "started")
    notebook.choose("Kernel", "Interrupt Kernel")
    notebook.wait_output(0, "KeyboardInterrupt")
    notebook.wait_ended(0)
    notebook.run(1)
    notebook.wait_texts(1, ["42"])


def test_no_output_is_lost_when_the_line_to_the_gateway_is_cut(open_notebook: Open, line: Relay) -> None:
    """A cell that counts, its line cut for a while in the middle: every number, once, in order, and the result."""
    notebook = open_notebook(COUNTING)
    notebook.run(0)
    notebook.wait_output(0, "9\n")
    time.sleep(READ_SECONDS)
    with line.down() as connections:
        time.sleep(AWAY_SECONDS)
    assert connections
    notebook.wait_texts(0, COUNTED, 2 * SOON)


def test_a_cell_that_ends_while_the_line_to_the_gateway_is_cut_ends_in_the_page(
    open_notebook: Open, line: Relay
) -> None:
    """Output and reply come when nobody is connected: the page has both once the line is there again."""
    code = "import time\nprint('before', flush=True)\ntime.sleep(1)\nprint('after')\n41 + 1"
    notebook = open_notebook(code, "print('next')")
    notebook.run(0)
    notebook.wait_output(0, "before")
    time.sleep(READ_SECONDS)
    with line.down() as connections:
        time.sleep(AWAY_SECONDS)
    assert connections
    notebook.wait_texts(0, ["before\nafter\n", "42"], 2 * SOON)
    notebook.run(1)
    notebook.wait_texts(1, ["next"])


def test_no_output_is_lost_when_the_browsers_line_is_cut(open_notebook: Open, front: Relay) -> None:
    """The same with the line between the browser and JupyterLab's server."""
    notebook = open_notebook(COUNTING)
    notebook.run(0)
    notebook.wait_output(0, "9\n")
    time.sleep(READ_SECONDS)
    with front.down() as connections:
        time.sleep(AWAY_SECONDS)
    assert connections
    notebook.wait_texts(0, COUNTED, 2 * SOON)


def test_input_is_answered_in_the_page(open_notebook: Open) -> None:
    """A cell that asks, and a user who types: the cell gets the text."""
    notebook = open_notebook("name = input('Who? ')\nprint('Hello', name)")
    notebook.run(0)
    field = notebook.output(0).locator("input.jp-Stdin-input")
    expect(field).to_be_visible(timeout=SOON)
    field.fill("Ada")
    field.press("Enter")
    notebook.wait_output(0, "Hello Ada")
    notebook.wait_ended(0)


def test_a_slider_moves_on_both_sides(open_notebook: Open) -> None:
    """A slider of ipywidgets: a key in the page changes its value in the kernel, and code moves it in the page."""
    make = "import ipywidgets\nslider = ipywidgets.IntSlider(value=3, max=10)\nslider"
    notebook = open_notebook(make, "print(slider.value)", "slider.value = 8")
    notebook.run(0)
    readout = notebook.output(0).locator(".widget-readout")
    expect(readout).to_have_text("3", timeout=2 * SOON)
    notebook.output(0).locator(".noUi-handle").press("ArrowRight")
    expect(readout).to_have_text("4")
    notebook.run(1)
    notebook.wait_texts(1, ["4"])
    notebook.run(2)
    expect(readout).to_have_text("8", timeout=SOON)


def test_a_session_that_was_evicted_is_back_when_the_next_cell_runs(open_notebook: Open, gate: Server) -> None:
    """Other sessions take the notebook's place: its next cell, in another kernel, has its variables."""
    notebook = open_notebook(f"x = 41\nborn = {BORN}", f"print(x + 1, born == {BORN})")
    notebook.run(0)
    notebook.wait_ended(0)
    for _ in range(MAX_LIVE_KERNELS):
        gate.client().run("pass", session_id=new_id())
    notebook.run(1)
    notebook.wait_texts(1, ["42 False"])
    expect(notebook.dialogs).to_have_count(0)


def test_the_death_of_the_kernel_is_shown_and_the_session_goes_on(open_notebook: Open) -> None:
    """A cell that kills its kernel: the page says so once, and the next cell has what was saved."""
    notebook = open_notebook("x = 41", "import os\nos._exit(1)", "print(x + 1)")
    notebook.run(0)
    notebook.wait_ended(0)
    notebook.run(1)
    notebook.wait_output(1, "KernelDied")
    expect(notebook.dialogs).to_contain_text("Kernel Restarting", timeout=SOON)
    notebook.accept()
    notebook.wait_connected()
    notebook.run(2)
    notebook.wait_texts(2, ["42"])
    expect(notebook.dialogs).to_have_count(0)
