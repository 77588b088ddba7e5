"""The work folder as a kernel saves and restores it, whatever user code has put there."""

from __future__ import annotations

import builtins
import hashlib
import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).parent.parent / "kernels" / "python"
sys.path.insert(0, str(SOURCES))

from kernelgate_kernel.state import files  # noqa: E402
from kernelgate_kernel.state.chunks import CHUNK  # noqa: E402
from kernelgate_kernel.state.files import MAX_DEPTH, Scan, WorkFolder  # noqa: E402

LIMITS = {"max_file": 20 << 20, "max_total": 50 << 20, "max_count": 1000, "max_name": 255}
OLD_ENOUGH = 0.05
"""Seconds after which a file's times tell of every later change."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is opened, in order."""
    names: list[str] = []
    real = vars(files)["open_descriptor"]

    def record(name: str, *args: Any, **kwargs: Any) -> int:
        names.append(name)
        return int(real(name, *args, **kwargs))

    monkeypatch.setattr(files, "open_descriptor", record)
    return names


def scan(folder: Path, **limits: int) -> Scan:
    return WorkFolder(str(folder)).scan(**{**LIMITS, **limits})


def paths(found: Scan) -> list[str]:
    return [entry["path"] for entry in found.files]


def reasons(found: Scan) -> dict[str, tuple[str, str]]:
    return {item["name"]: (item["type"], item["reason"]) for item in found.skipped}


def numbered(folder: WorkFolder, found: Scan) -> tuple[list[dict[str, Any]], list[bytes], list[str]]:
    """Return entries as they are restored, with the chunks and digests that they refer to."""
    chunks: list[bytes] = []
    digests: list[str] = []
    entries = []
    for entry in found.files:
        if "chunks" in entry:
            numbers = range(len(chunks), len(chunks) + len(entry["chunks"]))
            chunks += [folder.read_chunk(entry["path"], index) for index in range(len(entry["chunks"]))]
            digests += entry["chunks"]
            entry = {**entry, "chunks": list(numbers)}
        entries.append(entry)
    return entries, chunks, digests


def a_file(path: str, data: bytes = b"x", **fields: Any) -> dict[str, Any]:
    return {"path": path, "size": len(data), "mode": 0o644, "mtime_ns": 1, "chunks": [0] if data else [], **fields}


@contextmanager
def meanwhile(change: Callable[[], None]) -> Iterator[None]:
    """Do something again and again in a thread."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            change()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# --- there and back


def test_files_come_back_with_content_mode_and_time(folder: Path, tmp_path: Path) -> None:
    contents = {"a.txt": b"hello", "empty": b"", "deep/er/b.bin": os.urandom(2 * CHUNK + 5), "zeros": bytes(CHUNK)}
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o640)
        os.utime(folder / name, ns=(10**18, 10**18 + 123))
    work, other = WorkFolder(str(folder)), tmp_path / "other"
    other.mkdir()
    entries, chunks, digests = numbered(work, work.scan(**LIMITS))
    assert digests == [sha256(chunk).hexdigest() for chunk in chunks]
    assert WorkFolder(str(other)).restore(entries, chunks.__getitem__) == []
    assert {name: (other / name).read_bytes() for name in contents} == contents
    assert {(other / name).stat().st_mode & 0o777 for name in contents} == {0o640}
    assert {(other / name).stat().st_mtime_ns for name in contents} == {10**18 + 123}
    assert scan(other).files == work.scan(**LIMITS).files


def test_folders_come_back_empty_ones_and_those_that_cannot_be_written_to(folder: Path, tmp_path: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "closed" / "inner").mkdir(parents=True)
    (folder / "closed" / "inner" / "file").write_text("x")
    (folder / "closed").chmod(0o555)
    (folder / "closed" / "inner").chmod(0o500)
    work = WorkFolder(str(folder))
    entries, chunks, _ = numbered(work, work.scan(**LIMITS))
    other = tmp_path / "other"
    other.mkdir()
    assert WorkFolder(str(other)).restore(entries, chunks.__getitem__) == []
    modes = {name: (other / name).stat().st_mode & 0o777 for name in ("empty", "closed", "closed/inner")}
    assert modes == {"empty": 0o755, "closed": 0o555, "closed/inner": 0o500}
    assert (other / "closed/inner/file").read_text() == "x"


def test_names_with_control_characters_are_text_like_any_other(folder: Path, tmp_path: Path) -> None:
    names = ["new\nline", "tab\t", "\x01\x7f", "ünï", "😀", " ", "back\\slash", "'\"", "-rf", "...", "a\u202eb"]
    for name in names:
        (folder / name).write_text(name)
    work = WorkFolder(str(folder))
    found = work.scan(**LIMITS)
    assert sorted(paths(found)) == sorted(names)
    other = tmp_path / "other"
    other.mkdir()
    entries, chunks, _ = numbered(work, found)
    assert WorkFolder(str(other)).restore(json.loads(json.dumps(entries)), chunks.__getitem__) == []
    assert {name: (other / name).read_text() for name in names} == {name: name for name in names}


def test_two_names_of_one_file_are_two_files(folder: Path) -> None:
    (folder / "one").write_text("same")
    os.link(folder / "one", folder / "two")
    first, second = scan(folder).files
    assert (first["path"], second["path"]) == ("one", "two")
    assert first["chunks"] == second["chunks"]


def test_a_time_of_a_far_year_fits_into_64_bits(folder: Path) -> None:
    (folder / "far").write_text("x")
    os.utime(folder / "far", (253402300000, 253402300000))
    assert abs(scan(folder).files[0]["mtime_ns"]) < 1 << 63


# --- what was seen before


def test_an_unchanged_file_is_not_read_again(folder: Path, opened: list[str]) -> None:
    for number in range(50):
        (folder / f"{number}.csv").write_bytes(os.urandom(1000))
    time.sleep(OLD_ENOUGH)
    work = WorkFolder(str(folder))
    first = work.scan(**LIMITS)
    assert len(opened) == 51
    opened.clear()
    assert work.scan(**LIMITS) == first
    assert opened == [str(folder)]


def test_a_file_changed_in_place_with_its_time_put_back_is_read_again(folder: Path) -> None:
    (folder / "f").write_text("old")
    time.sleep(OLD_ENOUGH)
    work, status = WorkFolder(str(folder)), (folder / "f").stat()
    before = work.scan(**LIMITS)
    (folder / "f").write_text("new")
    os.utime(folder / "f", ns=(status.st_atime_ns, status.st_mtime_ns))
    after = work.scan(**LIMITS)
    assert before.files[0]["mtime_ns"] == after.files[0]["mtime_ns"]
    assert after.files[0]["chunks"] == [sha256(b"new").hexdigest()]


def test_a_file_changed_again_at_once_is_read_again(folder: Path) -> None:
    work = WorkFolder(str(folder))
    for number in range(200):
        text = f"{number:04}"
        (folder / "f").write_text(text)
        assert work.scan(**LIMITS).files[0]["chunks"] == [sha256(text.encode()).hexdigest()]


def test_a_change_through_a_memory_mapping_is_seen(folder: Path) -> None:
    (folder / "f").write_bytes(bytes(5000))
    work = WorkFolder(str(folder))
    with open(folder / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] = 1
        time.sleep(OLD_ENOUGH)
        work.scan(**LIMITS)
        for value in (2, 3):
            mapping[0] = value
            time.sleep(OLD_ENOUGH)
            expected = sha256(bytes([value]) + bytes(4999)).hexdigest()
            assert work.scan(**LIMITS).files[0]["chunks"] == [expected]
    assert files.Mappings().inodes() == frozenset()


def test_the_list_of_mappings_is_read_when_there_may_be_new_ones(folder: Path, opened: list[str]) -> None:
    """A module that uses the class of mappings is none; a mapping that comes after is seen."""
    (folder / "f").write_bytes(b"0" * 100)
    known = files.Mappings()
    kept = [mmap.mmap]
    assert known.inodes() == frozenset()
    opened.clear()
    assert (known.inodes(), opened) == (frozenset(), [])
    del kept[:]
    assert known.inodes() == frozenset()
    with open(folder / "f", "r+b") as file, mmap.mmap(file.fileno(), 0):
        assert known.inodes() == {(folder / "f").stat().st_ino}
        assert known.inodes() == {(folder / "f").stat().st_ino}
    assert known.inodes() == frozenset()


def test_what_was_restored_is_not_read_by_the_next_scan(folder: Path, opened: list[str]) -> None:
    data = [b"x" * CHUNK, b"tail"]
    digests = [sha256(chunk).hexdigest() for chunk in data]
    entry = a_file("sub/f", b"".join(data), chunks=[0, 1])
    work = WorkFolder(str(folder))
    assert work.restore([entry], data.__getitem__, digests=digests) == []
    opened.clear()
    assert work.scan(**LIMITS).files[1]["chunks"] == digests
    assert "f" not in opened
    time.sleep(OLD_ENOUGH)
    (folder / "sub/f").write_bytes(b"y" * (CHUNK + 4))
    assert work.scan(**LIMITS).files[1]["chunks"] != digests


def test_a_chunk_is_given_only_of_the_file_that_was_scanned(folder: Path) -> None:
    (folder / "f").write_bytes(b"a" * CHUNK + b"b")
    work = WorkFolder(str(folder))
    work.scan(**LIMITS)
    assert work.read_chunk("f", 1) == b"b"
    for path, index in (("f", 2), ("f", -1), ("g", 0), ("../data/f", 0), ("", 0)):
        with pytest.raises(ValueError, match=r"chunk|no file"):
            work.read_chunk(path, index)
    (folder / "f").write_bytes(b"c" * CHUNK + b"b")
    with pytest.raises(OSError, match="changed"):
        work.read_chunk("f", 0)
    (folder / "f").unlink()
    (folder / "f").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        work.read_chunk("f", 0)


# --- what is no file


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (folder / "file").symlink_to("/etc/passwd")
    (folder / "folder").symlink_to(tmp_path / "outside")
    (folder / "nowhere").symlink_to("nothing")
    (folder / "itself").symlink_to("itself")
    found = scan(folder)
    assert found.files == []
    assert reasons(found) == dict.fromkeys(
        ("file", "folder", "nowhere", "itself"), ("link", "a symbolic link is not saved")
    )


def test_pipes_sockets_and_devices_are_left_out_without_being_opened(folder: Path, opened: list[str]) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "sock"))
    expected = {"pipe": ("pipe", "a named pipe is not saved"), "sock": ("socket", "a socket is not saved")}
    if os.getuid() == 0:
        os.mknod(folder / "null", 0o20666, os.makedev(1, 3))
        expected["null"] = ("device", "a device is not saved")
    found = scan(folder)
    assert found.files == []
    assert reasons(found) == expected
    assert opened == [str(folder)]


def test_caches_are_left_out_without_a_word(folder: Path) -> None:
    (folder / "pkg" / "__pycache__").mkdir(parents=True)
    (folder / "pkg" / "__pycache__" / "x.pyc").write_text("x")
    found = scan(folder)
    assert (paths(found), found.skipped_count) == (["pkg"], 0)


def test_a_folder_that_is_not_there_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "gone")


UNREADABLE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from kernelgate_kernel.state.files import WorkFolder
os.chdir(sys.argv[2])
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
os.umask(0o022)
for folder in ("no_x", "no_r", "nothing"):
    os.mkdir(folder)
    open(folder + "/inside", "w").close()
open("file", "w").close()
open("readable", "w").close()
for name, mode in (("no_x", 0o600), ("no_r", 0o300), ("nothing", 0), ("file", 0)):
    os.chmod(name, mode)
found = WorkFolder(".").scan(1000, 1000, 100, 255)
for name in ("no_x", "no_r", "nothing"):
    os.chmod(name, 0o700)
print(json.dumps([found.files, found.skipped]))
"""


def test_what_may_not_be_read_is_left_out_by_name(folder: Path) -> None:
    folder.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-c", UNREADABLE, str(SOURCES), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    saved, skipped = json.loads(done.stdout)
    assert [entry["path"] for entry in saved] == ["no_x", "readable"]
    assert [(item["name"], item["type"], item["reason"]) for item in skipped] == [
        ("file", "file", "Permission denied"),
        ("no_r", "folder", "Permission denied"),
        ("no_x/inside", "file", "Permission denied"),
        ("nothing", "folder", "Permission denied"),
    ]


# --- limits


def test_a_file_at_the_limit_is_saved_and_one_byte_more_is_not(folder: Path) -> None:
    (folder / "at").write_bytes(bytes(1000))
    (folder / "over").write_bytes(bytes(1001))
    found = scan(folder, max_file=1000)
    assert paths(found) == ["at"]
    assert reasons(found) == {"over": ("file", "its 1001 bytes are over the limit of 1000 bytes for one file")}


def test_all_files_at_the_limit_are_saved_and_one_byte_more_is_not(folder: Path) -> None:
    for name in ("a", "b", "c"):
        (folder / name).write_bytes(bytes(500))
    (folder / "empty").touch()
    assert paths(scan(folder, max_total=1500)) == ["a", "b", "c", "empty"]
    found = scan(folder, max_total=1499)
    assert paths(found) == ["a", "b", "empty"]
    assert reasons(found)["c"][1] == "with its 500 bytes all files would be over the limit of 1499 bytes"


def test_no_more_files_are_saved_than_allowed_and_the_same_ones_each_time(tmp_path: Path) -> None:
    names = [f"{number:03}" for number in range(300)]
    for number, order in enumerate((names, names[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in order:
            (folder / name).touch()
        found = scan(folder, max_count=20)
        assert paths(found) == names[:20]
        assert (len(found.skipped), found.skipped_count) == (200, 280)
        assert reasons(found)["020"] == ("file", "there are more than 20 files")


def test_folders_have_a_count_of_their_own(folder: Path) -> None:
    for number in range(4):
        (folder / f"folder{number}").mkdir()
        (folder / f"folder{number}" / "file").touch()
    found = scan(folder, max_count=2)
    assert paths(found) == ["folder0", "folder0/file", "folder1", "folder1/file"]
    assert reasons(found) == dict.fromkeys(("folder2", "folder3"), ("folder", "there are more than 2 folders"))


def test_thousands_of_files_are_looked_at_in_part(folder: Path) -> None:
    (folder / "a").mkdir()
    for number in range(20_000):
        (folder / "a" / str(number)).touch()
    found = scan(folder, max_count=500)
    assert len(found.files) == 501
    assert found.skipped_count == 2000 - 1 - 500 + 1
    assert found.skipped[0] == {
        "name": "a",
        "type": "folder",
        "reason": "too many entries: the rest of it was not looked at",
    }


def test_what_lies_too_deep_is_left_out(folder: Path, tmp_path: Path) -> None:
    deep = "/".join(["d"] * 60)
    (folder / deep).mkdir(parents=True)
    (folder / "/".join(["d"] * MAX_DEPTH) / "file").write_text("x")
    work = WorkFolder(str(folder))
    found = work.scan(**LIMITS)
    deepest = "/".join(["d"] * MAX_DEPTH)
    assert paths(found)[-2:] == [deepest, deepest + "/file"]
    assert [item["reason"] for item in found.skipped] == [f"it is deeper than {MAX_DEPTH} folders"]
    entries, chunks, _ = numbered(work, found)
    other = tmp_path / "other"
    other.mkdir()
    assert WorkFolder(str(other)).restore(entries, chunks.__getitem__) == []
    assert scan(other).files == found.files


def test_names_that_are_no_text_or_too_long_are_left_out_in_print(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\n")).touch()
    (folder / ("n" * 101)).touch()
    (folder / ("n" * 100)).touch()
    found = scan(folder, max_name=100)
    assert paths(found) == ["n" * 100]
    assert reasons(found) == {
        "\\udcff\\n": ("file", "its name is not valid UTF-8"),
        "n" * 101: ("file", "a name of 101 characters is over the limit of 100"),
    }
    assert all(text.isprintable() and len(text) <= 200 for item in found.skipped for text in item.values())


def test_a_path_that_is_too_long_is_left_out(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("n" * 200, dir_fd=descriptor)
        above, descriptor = descriptor, os.open("n" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(above)
    os.close(descriptor)
    found = scan(folder)
    assert max(map(len, paths(found))) <= 4096
    assert len(found.skipped) == 1
    assert "over the limit of 4096" in found.skipped[0]["reason"]
    shutil.rmtree(folder)


def test_a_huge_sparse_file_is_left_out_without_being_read(folder: Path, opened: list[str]) -> None:
    with open(folder / "sparse", "wb") as file:
        file.truncate(10 << 30)
    found = scan(folder)
    assert found.files == []
    assert "10737418240 bytes" in found.skipped[0]["reason"]
    assert opened == [str(folder)]


def test_a_sparse_file_comes_back_as_large_and_as_sparse(folder: Path, tmp_path: Path) -> None:
    with open(folder / "sparse", "wb") as file:
        file.truncate(5 * CHUNK)
        file.seek(CHUNK + 10)
        file.write(b"data")
    work = WorkFolder(str(folder))
    entries, chunks, _ = numbered(work, work.scan(**LIMITS))
    other = tmp_path / "other"
    other.mkdir()
    assert WorkFolder(str(other)).restore(entries, chunks.__getitem__) == []
    assert (other / "sparse").read_bytes() == (folder / "sparse").read_bytes()
    assert (other / "sparse").stat().st_blocks * 512 <= CHUNK + 4096


# --- what changes while it is looked at


def test_a_file_swapped_with_a_link_never_shows_what_the_link_leads_to(folder: Path, tmp_path: Path) -> None:
    target = Path("/etc/passwd").read_bytes()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "inner").write_bytes(target)
    (folder / "sub").mkdir()
    names = ["f", "sub"]

    def swap() -> None:
        (tmp_path / "plain").write_text("plain")
        os.rename(tmp_path / "plain", folder / "f")
        os.symlink("/etc/passwd", tmp_path / "link")
        os.rename(tmp_path / "link", folder / "f")
        os.rename(folder / "sub", tmp_path / "aside")
        os.symlink(tmp_path / "outside", folder / "sub")
        os.unlink(folder / "sub")
        os.rename(tmp_path / "aside", folder / "sub")

    work, seen, deadline = WorkFolder(str(folder)), set(), time.monotonic() + 1.5
    scans = 0
    with meanwhile(swap):
        while time.monotonic() < deadline:
            found = work.scan(**LIMITS)
            scans += 1
            for entry in found.files:
                assert entry["path"] in names
                for index, digest in enumerate(entry.get("chunks", ())):
                    seen.add(digest)
                    try:
                        assert work.read_chunk(entry["path"], index) == b"plain"
                    except OSError:
                        continue
    assert scans > 10
    assert seen <= {sha256(b"plain").hexdigest(), sha256(b"").hexdigest()}


def test_a_file_that_grows_and_shrinks_is_saved_as_it_was_at_one_moment_or_not_at_all(folder: Path) -> None:
    path = folder / "f"
    path.write_bytes(bytes(CHUNK))

    def change() -> None:
        with open(path, "ab") as file:
            file.write(b"1" * 70_000)
        os.truncate(path, CHUNK)

    work, deadline = WorkFolder(str(folder)), time.monotonic() + 1
    whole = 0
    with meanwhile(change):
        while time.monotonic() < deadline:
            found = work.scan(**LIMITS)
            assert len(found.files) + found.skipped_count == 1
            for entry in found.files:
                whole += 1
                content = bytes(CHUNK) + b"1" * (entry["size"] - CHUNK)
                pieces = [content[:CHUNK], content[CHUNK:]] if len(content) > CHUNK else [content]
                assert entry["chunks"] == [sha256(piece).hexdigest() for piece in pieces]
    assert whole + found.skipped_count > 0


def test_files_and_folders_that_vanish_break_nothing(folder: Path) -> None:
    def churn() -> None:
        (folder / "d" / "e").mkdir(parents=True)
        (folder / "d" / "e" / "f").write_text("x")
        (folder / "d" / "e" / "f").unlink()
        (folder / "d" / "e").rmdir()
        (folder / "d").rmdir()

    (folder / "stays").write_text("here")
    deadline = time.monotonic() + 1
    with meanwhile(churn):
        while time.monotonic() < deadline:
            assert "stays" in paths(scan(folder))


def test_replaced_functions_of_the_modules_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "f").write_text("content")
    work = WorkFolder(str(folder))
    with monkeypatch.context() as patched:
        for name in ("open", "scandir", "stat", "lstat", "fstat", "close", "read", "pread", "mkdir", "unlink"):
            patched.setattr(os, name, None)
        patched.setattr(hashlib, "sha256", None)
        patched.setattr(builtins, "open", None)
        patched.setattr(time, "time_ns", None)
        found = work.scan(**LIMITS)
        data = work.read_chunk("d/f", 0)
        lost = work.restore([a_file("g")], lambda _number: b"x")
    assert (paths(found), data, lost) == (["d", "d/f"], b"content", [])
    assert (folder / "g").read_text() == "x"


# --- restoring


@pytest.mark.parametrize(
    "path", ["../x", "/x", "", ".", "..", "a/../../x", "a//b", "a/", "nul\0", "\udcff", "d/" * 33 + "x", None, 5]
)
def test_a_path_that_leads_elsewhere_is_refused(folder: Path, path: Any) -> None:
    before = sorted(folder.parent.iterdir())
    for entry in (a_file("x") | {"path": path}, {"path": path, "folder": True, "mode": 0o755}):
        (lost,) = WorkFolder(str(folder)).restore([entry], lambda _number: b"x")
        assert "not well-formed" in lost["reason"]
    assert (sorted(folder.parent.iterdir()), list(folder.iterdir())) == (before, [])


@pytest.mark.parametrize(
    "fields",
    [{"size": 2}, {"size": 0}, {"chunks": []}, {"chunks": [0, 0]}, {"chunks": [7]}, {"size": None}, {"mode": "x"}],
)
def test_an_entry_that_does_not_fit_its_chunks_leaves_nothing_behind(folder: Path, fields: dict[str, Any]) -> None:
    work = WorkFolder(str(folder))
    lost = work.restore([a_file("f", **fields), a_file("good")], [b"x"].__getitem__, digests=["d"])
    assert [(item["name"], item["type"]) for item in lost] == [("f", "file")]
    assert [path.name for path in folder.iterdir()] == ["good"]


def test_restoring_follows_no_link_that_is_in_the_way(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "kept")
    (folder / "taken").mkdir()
    entries = [
        a_file("link/x"),
        a_file("file"),
        a_file("taken"),
        {"path": "link", "folder": True, "mode": 0o700},
    ]
    lost = WorkFolder(str(folder)).restore(entries, lambda _number: b"x")
    assert [item["name"] for item in lost] == ["link/x", "taken", "link", "link"]
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"kept": "kept"}
    assert (folder / "file").read_text() == "x"
    assert not (folder / "file").is_symlink()


def test_what_gives_the_chunks_may_fail_for_one_file(folder: Path) -> None:
    def give(number: int) -> bytes:
        if number == 0:
            raise OSError(5, "Input/output error")
        return b"x"

    lost = WorkFolder(str(folder)).restore([a_file("f"), a_file("g", chunks=[1])], give)
    assert lost == [{"name": "f", "type": "file", "reason": "Input/output error"}]
    assert [path.name for path in folder.iterdir()] == ["g"]
