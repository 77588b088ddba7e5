"""``kernelgate kernelspecs``: what is put in place, found and removed, and what is said when that cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_core.paths import SYSTEM_JUPYTER_PATH

from kernelgate import kernelspecs
from kernelgate.commands import KernelspecsApp
from kernelgate.containers.engine import Engine
from kernelgate.languages import LANGUAGES, PYTHON, Language

NAME = PYTHON.kernel_name
Command = Callable[..., "Done"]


def specs(prefix: Path) -> Path:
    return prefix / "share" / "jupyter" / "kernels"


@dataclass(frozen=True)
class Done:
    """What a command has said, and its exit code."""

    code: object
    out: str
    err: str


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs ``kernelgate kernelspecs`` for a user whose Jupyter also looks into ``tmp_path/env``."""
    monkeypatch.setenv("JUPYTER_PATH", f"{tmp_path}/env/share/jupyter")
    monkeypatch.setenv("JUPYTER_DATA_DIR", f"{tmp_path}/user")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", f"{tmp_path}/config")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        app = KernelspecsApp()
        code: object = 0
        try:
            app.initialize(list(arguments))
            app.start()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    yield run
    if Engine.initialized():
        Engine.instance().close()
        Engine.clear_instance()


# --- the command


def test_an_installed_kernelspec_is_found_by_jupyter_listed_and_removed(
    image: None, command: Command, tmp_path: Path
) -> None:
    done = command("install", f"--prefix={tmp_path}/env", "--build")
    own = specs(tmp_path / "env") / NAME
    assert (done.code, done.out) == (0, f"{NAME}: installed in {own}\n"), done.err

    spec = KernelSpecManager().get_kernel_spec(NAME)
    assert (spec.language, spec.interrupt_mode, spec.argv) == ("python", "message", list(PYTHON.argv))
    assert spec.metadata["kernel_provisioner"]["provisioner_name"] == "kernelgate-docker"
    assert spec.metadata["kernel_provisioner"]["config"]["image"].startswith("kernelgate/python:")
    assert KernelProvisionerFactory().is_provisioner_available(spec)

    assert f"{NAME}: {own}\n" in command("list").out
    assert command("remove", f"--prefix={tmp_path}/env").out == f"{NAME}: removed from {own.parent}\n"
    assert list(own.parent.iterdir()) == []
    with pytest.raises(NoSuchKernel):
        KernelSpecManager().get_kernel_spec(NAME)


def test_a_kernelspec_for_the_user_is_removed_wherever_it_is(
    image: None, command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "user" / "kernels"
    assert command("install", "py", "--user").out == f"{NAME}: installed in {folder / NAME}\n"
    assert command("remove", "python").out == f"{NAME}: removed from {folder}\n"
    done = command("remove", "--user")
    assert (done.code, "no kernelspec of kernelgate is there" in done.err) == (1, True)


def test_a_place_where_jupyter_does_not_look_is_pointed_out(image: None, command: Command, tmp_path: Path) -> None:
    done = command("install", f"--prefix={tmp_path}/elsewhere")
    assert done.code == 0
    assert f"Jupyter does not look into {specs(tmp_path / 'elsewhere')} from here" in done.out


def test_without_its_image_nothing_is_installed(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG_PYTHON_IMAGE", "python:3.11-never-built")
    done = command("install", f"--prefix={tmp_path}/env")
    assert (done.code, done.out) == (1, "")
    assert "is not built" in done.err
    assert "`kernelgate images build py` builds what is missing" in done.err
    assert not (tmp_path / "env").exists()


def test_a_kernelspec_of_another_version_is_pointed_out(command: Command, tmp_path: Path) -> None:
    kernelspecs.install(PYTHON, "kernelgate/python:older", specs(tmp_path / "env"))
    assert "(names kernelgate/python:older, which is another version's: install it again)" in command("list").out


def test_a_folder_that_cannot_be_written_to_is_an_error_with_a_way_out(
    image: None, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = command("install", f"--prefix={tmp_path}/file")
    assert (done.code, done.out) == (1, "")
    assert f"{specs(tmp_path / 'file')} cannot be written to: Not a directory" in done.err
    assert "--user, --sys-prefix or --prefix=PATH names another folder" in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["install", "--user", "--sys-prefix"], "one of --user, --sys-prefix and --prefix=PATH is expected"),
        (["update"], "'install', 'list' or 'remove' is expected, got 'update'"),
        (["install", "klingon"], "got 'klingon'"),
    ],
)
def test_what_is_not_understood_is_refused(command: Command, arguments: list[str], sentence: str) -> None:
    done = command(*arguments)
    assert (done.code, done.out) == (1, "")
    assert sentence in done.err


def test_it_is_a_command_of_kernelgate(tmp_path: Path) -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "kernelgate", "kernelspecs", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert all(option in help_text for option in ("--user", "--sys-prefix", "--prefix", "--build"))


# --- the folders and files


def test_folders_are_those_of_jupyter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert kernelspecs.kernels_folder(user=True) == tmp_path / "kernels"
    assert kernelspecs.kernels_folder(prefix="/opt/env") == Path("/opt/env/share/jupyter/kernels")
    assert kernelspecs.kernels_folder(prefix="env") == specs(tmp_path / "env")
    assert kernelspecs.kernels_folder() == Path(SYSTEM_JUPYTER_PATH[0], "kernels")


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.id)
def test_installing_again_replaces_what_is_there(tmp_path: Path, language: Language) -> None:
    kernelspecs.install(language, "an/image:1", tmp_path)
    own = kernelspecs.install(language, "an/image:2", tmp_path)
    assert sorted(path.name for path in own.iterdir()) == ["kernel.json", "logo-svg.svg"]
    assert kernelspecs.find_installed([tmp_path]) == [kernelspecs.Installed(language, own, "an/image:2")]
    assert ElementTree.parse(own / "logo-svg.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"metadata": []}',
        json.dumps({"metadata": {"kernel_provisioner": {"provisioner_name": "x"}}}),
    ],
)
def test_other_peoples_kernelspecs_are_not_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "kernel.json").write_text(text)
    assert kernelspecs.find_installed([tmp_path, tmp_path / "missing"]) == []
