"""The images: what they are called, what goes into them, and that the real one holds what it promises."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from kernelgate.errors import EngineError, ImageError
from kernelgate.images.builder import BuildOutput, ImageBuilder
from kernelgate.images.context import context_files, image_name, resource_folder, write_context
from kernelgate.images.debian import (
    base_name,
    debootstrap_progress,
    fallback_release,
    registry_unreachable,
    require_debootstrap,
    updated_sources,
)
from kernelgate.images.processes import build_lock, cache_folder, run, started
from kernelgate.images.wheels import (
    Interpreter,
    download_command,
    download_progress,
    parse_interpreter,
    wheel_files,
    wheel_platforms,
)
from kernelgate.languages import PYTHON

BASE = PYTHON.base_image
BOOKWORM = Interpreter((3, 11), "x86_64", (2, 36))
NO_SUCH_HOST = 'Get "https://registry.test/v2/": dial tcp: lookup registry.test: no such host'
NOT_FOUND = "manifest for python:3.99 not found: manifest unknown"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A checkout: a package folder with ``images`` and ``kernels`` beside it."""
    (tmp_path / "kernelgate").mkdir()
    for name in ("images/python/Dockerfile", "images/python/requirements.txt", "kernels/python/launch.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return tmp_path / "kernelgate"


# The name


def test_the_same_sources_give_the_same_name(package: Path) -> None:
    name = image_name(PYTHON, BASE, package)
    assert name == image_name(PYTHON, BASE, package)
    repository, _, tag = name.partition(":")
    assert repository == "kernelgate/python"
    assert len(tag) == 12
    assert int(tag, 16) >= 0


@pytest.mark.parametrize(
    "changed", ["images/python/Dockerfile", "images/python/requirements.txt", "kernels/python/launch.py"]
)
def test_any_changed_source_gives_another_name(package: Path, changed: str) -> None:
    before = image_name(PYTHON, BASE, package)
    (package.parent / changed).write_text("changed")
    assert image_name(PYTHON, BASE, package) != before


def test_a_new_or_renamed_source_gives_another_name(package: Path) -> None:
    names = [image_name(PYTHON, BASE, package)]
    new = package.parent / "kernels/python/new.py"
    new.touch()
    names.append(image_name(PYTHON, BASE, package))
    new.rename(new.with_name("other.py"))
    names.append(image_name(PYTHON, BASE, package))
    assert len(set(names)) == 3


def test_another_base_gives_another_name(package: Path) -> None:
    assert image_name(PYTHON, BASE, package) != image_name(PYTHON, "python:3.13-slim", package)


def test_compiled_and_hidden_files_do_not_count(package: Path) -> None:
    before = image_name(PYTHON, BASE, package)
    for name in ("__pycache__/launch.cpython-311.pyc", "launch.pyc", ".launch.py.swp", ".cache/x"):
        path = package.parent / "kernels/python" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert image_name(PYTHON, BASE, package) == before


def test_the_name_takes_little_time() -> None:
    image_name(PYTHON, BASE)
    start = time.perf_counter()
    image_name(PYTHON, BASE)
    assert time.perf_counter() - start < 0.02


# What goes in


def test_resources_of_a_checkout_are_beside_the_package(package: Path) -> None:
    assert resource_folder("images", package) == package.parent / "images"


def test_resources_of_an_installed_package_are_inside(package: Path) -> None:
    (package / "resources/images").mkdir(parents=True)
    assert resource_folder("images", package) == package / "resources/images"


def test_a_wheel_ships_the_context(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "benchmarks", "docs")
    shutil.copytree(resource_folder("images").parent, source, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*pip, str(source)], check=True, stdout=subprocess.DEVNULL)
    installed = tmp_path / "site/kernelgate"
    assert resource_folder("kernels", installed) == installed / "resources/kernels"
    assert image_name(PYTHON, BASE, installed) == image_name(PYTHON, BASE, source / "kernelgate")


def test_context_holds_dockerfile_and_kernel(package: Path) -> None:
    assert list(context_files(PYTHON, package)) == ["Dockerfile", "requirements.txt", "kernel/launch.py"]


def test_a_language_without_dockerfile_is_an_error(package: Path) -> None:
    with pytest.raises(ImageError, match="expected a Dockerfile"):
        context_files(replace(PYTHON, folder="cobol"), package)


def test_context_depends_on_names_and_contents_alone(package: Path) -> None:
    files = context_files(PYTHON, package)
    first, second = io.BytesIO(), io.BytesIO()
    write_context(files, first)
    path = package.parent / "images/python/Dockerfile"
    os.utime(path, (1, 1))
    path.chmod(0o600)
    write_context({**files, "Dockerfile": path}, second)
    assert first.getvalue() == second.getvalue()
    with tarfile.open(fileobj=first) as archive:
        assert sorted(archive.getnames()) == sorted(files)


def test_every_requirement_is_pinned() -> None:
    files = context_files(PYTHON)
    lines = (files["requirements.txt"] + files["installer.txt"]).decode().split("\n")
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins)
    assert len(pins) == len({line.partition("==")[0].lower() for line in pins})


# The base


@pytest.mark.parametrize(
    "reason",
    [
        NO_SUCH_HOST,
        'Get "https://registry.test/v2/": dial tcp 192.0.2.1:443: connect: connection refused',
        'Get "https://registry.test/v2/": dial tcp 192.0.2.1:443: i/o timeout',
        "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting)",
        'Get "https://registry.test/v2/": net/http: TLS handshake timeout',
        'Get "https://registry.test/v2/": Forbidden',
        "received unexpected HTTP status: 403 Forbidden",
        'Get "https://registry.test/v2/": proxyconnect tcp: EOF',
        "received unexpected HTTP status: 503 Service Unavailable",
        'Get "https://registry.test/v2/": x509: certificate signed by unknown authority',
    ],
)
def test_debian_stands_in_where_no_registry_answers(reason: str) -> None:
    assert registry_unreachable(reason)
    assert fallback_release(BASE, reason) == "bookworm"


@pytest.mark.parametrize(
    "reason",
    [
        NOT_FOUND,
        "pull access denied for python, repository does not exist or may require 'docker login': denied: "
        "requested access to the resource is denied",
        "toomanyrequests: You have reached your pull rate limit.",
        'Head "https://registry.test/v2/": unauthorized: incorrect username or password',
    ],
)
def test_a_registry_that_refuses_is_an_error(reason: str) -> None:
    with pytest.raises(ImageError, match="docker load") as caught:
        fallback_release(BASE, reason)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ("python", "bookworm"),
        ("python:latest", "bookworm"),
        ("python:3-slim", "bookworm"),
        ("python:3.11.9-slim-trixie", "bookworm"),
        ("library/python:3.13", "trixie"),
    ],
)
def test_the_release_is_the_one_with_that_python(image: str, release: str) -> None:
    assert fallback_release(image, NO_SUCH_HOST) == release


@pytest.mark.parametrize(
    "image",
    ["python:3.12", "python:2.7", "python:3.11-alpine", "me/python:3.11", "hub.test/python:3.11", "debian"],
)
def test_no_release_stands_in_for_other_images(image: str) -> None:
    with pytest.raises(ImageError, match=image):
        fallback_release(image, NO_SUCH_HOST)


def test_updates_come_from_the_same_mirror() -> None:
    sources = updated_sources("deb http://mirror.test/debian bookworm main\n", "bookworm")
    assert "deb http://mirror.test/debian-security bookworm-security main\n" in sources
    assert "deb http://mirror.test/debian bookworm-updates main\n" in sources


def test_other_sources_stay_as_they_are() -> None:
    assert updated_sources("deb file:/pool bookworm main\n", "bookworm") == "deb file:/pool bookworm main\n"


def test_each_release_has_a_base_of_its_own() -> None:
    assert base_name("bookworm").startswith("kernelgate/base:bookworm-")
    assert base_name("trixie").startswith("kernelgate/base:trixie-")


def test_debootstrap_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ImageError, match="needs root, not uid 1000"):
        require_debootstrap(print)


def test_missing_debootstrap_without_apt_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="install debootstrap"):
        require_debootstrap(print)


def test_debootstrap_tells_its_stages_not_its_packages() -> None:
    assert debootstrap_progress("I: Unpacking the base system...\n") == "  unpacking the base system"
    assert debootstrap_progress("I: Configuring libc6:amd64...\n") is None
    assert debootstrap_progress("I: Retrieving adduser 3.134\n") is None


# The wheels


def test_wheels_fit_every_older_glibc() -> None:
    platforms = wheel_platforms(BOOKWORM)
    assert platforms[0] == "manylinux_2_36_x86_64"
    assert {"manylinux2014_x86_64", "manylinux1_x86_64", "manylinux_2_5_x86_64"} <= set(platforms)
    assert "manylinux_2_37_x86_64" not in platforms


def test_wheels_for_arm_start_at_glibc_2_17() -> None:
    platforms = wheel_platforms(Interpreter((3, 11), "aarch64", (2, 36)))
    assert platforms[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]


def test_pip_is_asked_for_the_base_images_python(tmp_path: Path) -> None:
    command = download_command(BOOKWORM, [Path("requirements.txt")], tmp_path / "new", [tmp_path / "old"])
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--only-binary=:all:" in command
    assert command[command.index("--python-version") + 1] == "3.11"
    assert command[command.index("--implementation") + 1] == "cp"
    assert "--platform=manylinux_2_28_x86_64" in command
    assert f"--find-links={tmp_path / 'old'}" in command
    assert "--requirement=requirements.txt" in command
    assert command[-2:] == ["--dest", str(tmp_path / "new")]


def test_only_large_downloads_are_told() -> None:
    large = "  Downloading numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (16.9 MB)\n"
    assert download_progress(large) == "  numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (16.9 MB)"
    assert download_progress("  Downloading dill-0.4.1-py3-none-any.whl (119 kB)\n") is None
    assert download_progress("Collecting numpy==2.4.6\n") is None


def test_the_interpreter_is_read_from_the_probe() -> None:
    assert parse_interpreter('[[3, 11], "x86_64", "2.36"]\n') == BOOKWORM


@pytest.mark.parametrize("output", ["", "python3: not found", '[[3, 12], "x86_64", ""]', "[]", "null"])
def test_a_base_without_usable_python_is_an_error(output: str) -> None:
    with pytest.raises(ImageError, match="glibc"):
        parse_interpreter(output)


def test_the_cache_is_where_the_environment_says() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/kernelgate")
    assert cache_folder({}) == Path.home() / ".cache/kernelgate"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where pip finds wheels; there is one, tiny 1.0. The cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_wheels_are_fetched_once(wheels: Path) -> None:
    first = wheel_files([b"tiny==1.0\n"], BOOKWORM, print)
    shutil.rmtree(wheels)
    said: list[str] = []
    assert wheel_files([b"tiny==1.0\n"], BOOKWORM, said.append) == first
    assert list(first) == ["wheels/tiny-1.0-py3-none-any.whl"]
    assert said == []


def test_wheels_of_older_requirements_are_used_again(wheels: Path) -> None:
    wheel_files([b"tiny==1.0\n"], BOOKWORM, print)
    shutil.rmtree(wheels)
    again = wheel_files([b"# changed\ntiny==1.0\n"], BOOKWORM, print)
    assert list(again) == ["wheels/tiny-1.0-py3-none-any.whl"]
    assert len(list((cache_folder() / "wheels").iterdir())) == 1


@pytest.mark.usefixtures("wheels")
def test_a_failed_download_leaves_nothing_behind() -> None:
    with pytest.raises(ImageError, match="absent"):
        wheel_files([b"absent==1.0\n"], BOOKWORM, print)
    assert list((cache_folder() / "wheels").iterdir()) == []


# Running things


def test_a_failing_command_is_an_error_with_its_output() -> None:
    with pytest.raises(ImageError, match="exit code 3:\nbecause"):
        run(["sh", "-c", "echo because >&2; exit 3"], print)


def test_a_missing_command_is_an_error() -> None:
    with pytest.raises(ImageError, match="cannot run no-such-command"):
        run(["no-such-command"], print)


def interrupted(pid: Path) -> None:
    """Start a command that starts another, whose id goes to the file ``pid``, and be interrupted."""
    with started(["sh", "-c", f"sleep 60 & echo $! > {pid}; wait"]):
        while not pid.exists() or not pid.read_text().strip():
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_ends_the_whole_process_group(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "pid")
    state = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    deadline = time.monotonic() + 5
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_second_build_waits_for_the_first(tmp_path: Path) -> None:
    said: list[str] = []
    waits = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        waits.set()

    def second() -> None:
        with build_lock(tmp_path, say):
            said.append("second")

    thread = threading.Thread(target=second)
    with build_lock(tmp_path, said.append):
        thread.start()
        assert waits.wait(10)
        said.append("first")
    thread.join(10)
    assert said == ["waiting for another build to end", "first", "second"]


def test_progress_is_what_the_steps_say() -> None:
    said: list[str] = []
    events: list[dict[str, object]] = [
        {"stream": "Step 1/2 : FROM base"},
        {"stream": "\n"},
        {"stream": " ---> 0123456789ab\n"},
        {"stream": "Step 2/2 : RUN echo installing"},
        {"stream": " ---> Running in 0a1b2c3d4e5f\n"},
        {"stream": "installing\n"},
        {"stream": "\x1b[91mdebconf: noise\n\x1b[0m"},
        {"aux": {"ID": "sha256:ba9876543210"}},
        {"stream": "Successfully built ba9876543210\n"},
    ]
    output = BuildOutput(said.append)
    assert output.read(events) == "sha256:ba9876543210"
    assert said == ["  installing"]
    assert output.images == {"0123456789ab"}


def test_a_failed_step_is_an_error_with_its_output() -> None:
    events = [{"stream": "\x1b[91mE: no such package\n\x1b[0m"}, {"error": "returned a non-zero code: 100"}]
    with pytest.raises(ImageError, match=r"non-zero code: 100\nE: no such package"):
        BuildOutput(print).read(events)


# The real engine


@pytest.fixture(scope="module")
def api() -> Iterator[docker.APIClient]:
    client = docker.APIClient(version="auto")
    yield client
    client.close()


@pytest.fixture(scope="module")
def image(api: docker.APIClient) -> str:
    """The Python image, built if it is not there."""
    return ImageBuilder(api).build(PYTHON, print)


def run_in(image: str, code: str) -> str:
    """Run Python code in a container that is locked down like a kernel's, and return what it prints."""
    command = ["docker", "run", "--rm", "--network=none", "--read-only", "--user=64000:64000"]
    command += ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp:mode=1777"]
    command += ["--env=MPLCONFIGDIR=/tmp/matplotlib", "--env=HOME=/tmp", image, "sh", "-c"]
    command += ['cp -r /opt/kernelgate/matplotlib /tmp && exec python -W error -c "$0"', code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


def test_a_present_image_is_not_built_again(api: docker.APIClient, image: str) -> None:
    said: list[str] = []
    builder = ImageBuilder(api)
    assert builder.present(PYTHON)
    assert builder.build(PYTHON, said.append) == builder.name(PYTHON) == image
    assert said == []


def test_an_image_upon_another_base_is_absent(api: docker.APIClient) -> None:
    assert not ImageBuilder(api, python_image="kernelgate/no-such-base:1").present(PYTHON)


def test_an_unknown_base_is_an_error(api: docker.APIClient) -> None:
    builder = ImageBuilder(api, python_image="kernelgate/no-such-base:1")
    with pytest.raises(ImageError, match="expected the base image kernelgate/no-such-base:1"):
        builder.build(PYTHON, print)


def test_an_engine_that_does_not_answer_is_an_error() -> None:
    api = docker.APIClient(base_url="tcp://127.0.0.1:1", version="1.41")
    with pytest.raises(EngineError):
        ImageBuilder(api).present(PYTHON)


def test_image_is_set_up_for_a_sandbox(api: docker.APIClient, image: str) -> None:
    config = api.inspect_image(image)["Config"]
    assert config["Entrypoint"] == ["/usr/bin/tini", "--"]
    assert config["WorkingDir"] == "/mnt/data"
    assert "PATH=/opt/kernel/bin:/usr/local/bin:/usr/bin:/bin" in config["Env"]
    code = """
import os, pwd, stat, sys
user = pwd.getpwnam("sandbox")
assert (user.pw_uid, user.pw_gid, user.pw_dir) == (64000, 64000, "/home/sandbox"), user
for folder in ("/mnt/data", "/tmp", "/home/sandbox", "/run/kernelgate"):
    assert os.path.isdir(folder), folder
assert sys.executable == "/opt/kernel/bin/python"
assert not os.path.exists("/wheels")
for folder, names, files in os.walk("/"):
    names[:] = [name for name in names if (folder, name) not in {("/", "proc"), ("/", "sys")}]
    for name in files:
        mode = os.lstat(os.path.join(folder, name)).st_mode
        assert not (stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID)), name
print("good")
"""
    assert run_in(image, code) == "good\n"


def test_every_package_imports(image: str) -> None:
    code = """
import importlib, warnings
warnings.simplefilter("ignore")
for name in '''
    numpy pandas scipy.stats scipy.optimize scipy.signal matplotlib.pyplot seaborn sklearn.ensemble
    sklearn.utils.estimator_checks statsmodels.api statsmodels.formula.api sympy networkx PIL.Image openpyxl
    xlsxwriter pyarrow.parquet pyarrow.dataset pyarrow.flight docx pptx pypdf reportlab.pdfgen.canvas
    reportlab.platypus bs4 lxml.etree plotly.express plotly.graph_objects requests tabulate ipykernel.kernelapp
    dill debugpy numpy.testing pandas.testing matplotlib.testing sympy.testing mpmath
'''.split():
    importlib.import_module(name)
import numpy, pandas
numpy.testing.assert_allclose([1.0], [1.0])
pandas.testing.assert_frame_equal(pandas.DataFrame({"a": ["x"]}), pandas.DataFrame({"a": ["x"]}))
print("good")
"""
    assert run_in(image, code) == "good\n"


def test_modules_are_compiled(image: str) -> None:
    code = """
import importlib.util, sysconfig
from pathlib import Path
for folder in (sysconfig.get_path("purelib"), "/opt/kernelgate"):
    paths = [path for path in Path(folder).rglob("*.py")]
    missing = [path for path in paths if not Path(importlib.util.cache_from_source(path)).exists()]
    assert len(missing) < 20, missing
print("good")
"""
    assert run_in(image, code) == "good\n"


PLOT = """
import io, logging
import matplotlib
logging.basicConfig()
matplotlib.use({backend!r})
{style}
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
axes.set_title("{text}")
figure.savefig(io.BytesIO())
print("good")
"""
SCRIPTS = (
    "\N{MINUS SIGN}5 é Ω Ж 中文 日本語 カタカナ 한국어 العربية עברית"
    " हिन्दी ไทย বাংলা தமிழ் తెలుగు ខ្មែរ አማርኛ ქართ ∑ ★ 😀"
)


@pytest.mark.parametrize("backend", ["agg", "pdf", "svg"])
@pytest.mark.parametrize(
    "style",
    [
        "",
        "import seaborn; seaborn.set_theme()",
        "matplotlib.rcParams['font.sans-serif'] = ['SimHei']",
        "matplotlib.rcParams['font.family'] = 'Malgun Gothic'",
        "matplotlib.rcParams['font.family'] = 'serif'",
        "matplotlib.rcParams.update({'font.family': 'Arial', 'axes.titleweight': 'bold'})",
    ],
)
def test_one_plot_mixes_scripts_without_a_warning(image: str, backend: str, style: str) -> None:
    assert run_in(image, PLOT.format(backend=backend, style=style, text=SCRIPTS)) == "good\n"


def test_no_plot_waits_for_a_font_list(image: str) -> None:
    code = """
import pathlib
before = {path: path.stat().st_mtime_ns for path in pathlib.Path("/tmp/matplotlib").iterdir()}
import matplotlib.font_manager
after = {path: path.stat().st_mtime_ns for path in pathlib.Path("/tmp/matplotlib").iterdir()}
assert before == after, (before, after)
print(*[path.name for path in before])
"""
    assert run_in(image, code).startswith("fontlist-v")
