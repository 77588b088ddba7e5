"""Records of sessions: executions, versions, the ways back, and the seal. Pure."""

from __future__ import annotations

import pytest

from kernelgate.auth import Owner
from kernelgate.errors import Conflict, StateRefused
from kernelgate.sessions.record import Entry, Manifest, Record, Version, blob_name, digest_of
from kernelgate.sessions.seal import SEAL_BYTES, Seal, check

ANN = Owner("ann", "user")


def new_record() -> Record:
    return Record.new(ANN, "a", "py")


def execute(record: Record, saved: bool = True, size: int = 10) -> None:
    """Add an execution, which leads to a new version if it is saved."""
    record.executions += 1
    number = record.last_version + 1 if saved else record.version
    entry = Entry(
        record.executions, record.version, number, "2026-01-01", "ok" if saved else "error", f"e{number}"
    )
    version = Version(blob_name(record.space, f"m{number}"), f"t{number}", size) if saved else None
    record.add(entry, version)


def executed(*saved: bool) -> Record:
    record = new_record()
    for each in saved:
        execute(record, each)
    return record


def test_an_execution_that_is_saved_leads_to_a_version_and_one_that_is_not_stays_where_it_was() -> None:
    record = executed(True, False, True)
    assert [(entry.base, entry.version) for entry in record.entries] == [(0, 1), (1, 1), (1, 2)]
    assert (record.version, record.tag, sorted(record.versions)) == (2, "t2", [1, 2])


def test_a_record_comes_back_from_its_bytes_as_it_was() -> None:
    record = executed(True, False, True)
    record.undo(1)
    assert Record.from_bytes(record.to_bytes()) == record


def test_a_record_of_another_format_is_refused() -> None:
    data = new_record().to_bytes().replace(b'"format":1', b'"format":9')
    with pytest.raises(StateRefused):
        Record.from_bytes(data)


def test_a_copy_changes_and_the_record_does_not() -> None:
    record = executed(True)
    copy = record.copy()
    execute(copy)
    assert (record.version, len(record.entries), len(record.versions)) == (1, 1, 1)


# --- undo


@pytest.mark.parametrize(
    ("saved", "steps", "version", "undone"),
    [
        ((True,), 1, 0, [1]),
        ((True, True, True), 1, 2, [3]),
        ((True, True, True), 3, 0, [1, 2, 3]),
        ((True, False), 1, 1, [2]),
        ((True, False, True), 2, 1, [2, 3]),
    ],
)
def test_an_undo_goes_back_to_before_the_last_executions(
    saved: tuple[bool, ...], steps: int, version: int, undone: list[int]
) -> None:
    record = executed(*saved)
    assert record.undo(steps) == undone
    assert record.version == version
    assert [entry.number for entry in record.entries if entry.undone] == undone


def test_undo_upon_undo_goes_further_back_and_new_versions_get_new_numbers() -> None:
    record = executed(True, True, True)
    assert [record.undo(1), record.undo(1), record.version] == [[3], [2], 1]
    execute(record)
    assert (record.version, record.entries[-1].base) == (4, 1)
    assert record.undo(2) == [1, 4]
    assert record.version == 0


def test_more_than_there_was_cannot_be_undone_and_nothing_changes() -> None:
    record = executed(True, True)
    with pytest.raises(Conflict, match="there are 2"):
        record.undo(3)
    assert (record.version, [entry.undone for entry in record.entries]) == (2, [False, False])


def test_a_version_that_is_no_longer_kept_cannot_be_gone_back_to() -> None:
    record = executed(True, True)
    del record.versions[1]
    with pytest.raises(Conflict, match="no longer kept"):
        record.undo(1)


# --- fork


def test_a_fork_has_the_way_to_its_version_and_nothing_else() -> None:
    record = executed(True, True, True)
    record.undo(2)
    execute(record)
    fork = record.fork("b", 4)
    assert [entry.number for entry in fork.entries] == [1, 4]
    assert (fork.version, sorted(fork.versions), fork.executions, fork.last_version) == (4, [1, 4], 4, 4)


def test_a_fork_of_what_was_undone_is_not_undone_there() -> None:
    record = executed(True, True)
    record.undo(1)
    fork = record.fork("b", 2)
    assert [(entry.number, entry.undone) for entry in fork.entries] == [(1, False), (2, False)]


def test_a_fork_puts_its_blobs_elsewhere_and_owns_none_of_its_parents() -> None:
    record = executed(True)
    fork = record.fork("b", 1)
    assert fork.space != record.space
    assert fork.own(version.manifest for version in record.versions.values()) == set()
    assert record.own(["b/other/x", blob_name(record.space, "y")]) == {blob_name(record.space, "y")}


def test_a_fork_at_the_beginning_is_empty() -> None:
    fork = executed(True).fork("b", 0)
    assert (fork.version, fork.entries, fork.versions, fork.executions) == (0, [], {}, 0)


# --- bounds


def test_history_is_cut_back_when_it_is_a_fifth_over_its_bound() -> None:
    record = executed(*[True] * 12)
    assert record.trim(10, 1000).entries == []
    execute(record)
    trimmed = record.trim(10, 1000)
    assert [entry.number for entry in trimmed.entries] == [1, 2, 3]
    assert [version.tag for version in trimmed.versions] == ["t1", "t2"]  # 3 is what the execution 4 began with
    assert [entry.number for entry in record.entries] == list(range(4, 14))


def test_the_oldest_versions_go_when_they_are_too_large_together_and_the_current_one_stays() -> None:
    record = executed(*[True] * 5)
    assert record.trim(100, 40).versions == []
    trimmed = record.trim(100, 10)
    assert [version.tag for version in trimmed.versions] == ["t1", "t2", "t3"]
    assert [record.restorable(number) for number in range(6)] == [True, False, False, False, True, True]
    assert record.trim(100, 0).versions[0].tag == "t4"
    assert record.tag == "t5"


# --- seals


def test_what_was_sealed_is_opened_under_its_name_only() -> None:
    seal = Seal("secret")
    sealed = seal.close("a", b"data")
    assert seal.open("a", sealed) == b"data"
    for name, other, data in (
        ("b", seal, sealed),
        ("a", Seal("other secret"), sealed),
        ("a", seal, sealed[:-1]),
        ("a", seal, sealed[: SEAL_BYTES - 1]),
        ("a", seal, b""),
    ):
        with pytest.raises(StateRefused):
            other.open(name, data)


@pytest.mark.parametrize("index", range(SEAL_BYTES + 4))
def test_one_flipped_bit_breaks_a_seal(index: int) -> None:
    sealed = bytearray(Seal("secret").close("a", b"data"))
    sealed[index] ^= 1
    with pytest.raises(StateRefused):
        Seal("secret").open("a", bytes(sealed))


def test_a_blob_that_is_not_what_its_name_says_is_refused() -> None:
    name = blob_name("space", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    check({name: b""})
    with pytest.raises(StateRefused):
        check({name: b"x"})
    assert digest_of(name).startswith("e3b0")


def test_a_manifest_comes_back_from_its_bytes() -> None:
    manifest = Manifest({"streams": [["d"]]}, {"d": "b/s/d"})
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
