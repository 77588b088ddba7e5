"""Errors: each has its status and its code, and the tree in the docstring is the tree of the classes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from kernelgate import errors
from kernelgate.errors import BlobsMissing, ConfigError, GateError, RateLimited, StateNotSaved

TREE: dict[str, tuple[str, int, str]] = {
    "GateError": ("Exception", 500, "internal_error"),
    "InvalidRequest": ("GateError", 400, "invalid_request"),
    "UnsupportedLanguage": ("InvalidRequest", 400, "unsupported_language"),
    "BodyTooLarge": ("InvalidRequest", 413, "body_too_large"),
    "Unauthorized": ("GateError", 401, "unauthorized"),
    "NotFound": ("GateError", 404, "not_found"),
    "SessionNotFound": ("NotFound", 404, "session_not_found"),
    "KernelNotFound": ("NotFound", 404, "kernel_not_found"),
    "KernelspecNotFound": ("NotFound", 404, "kernelspec_not_found"),
    "VariableNotFound": ("NotFound", 404, "variable_not_found"),
    "MethodNotAllowed": ("GateError", 405, "method_not_allowed"),
    "Conflict": ("GateError", 409, "conflict"),
    "Aborted": ("Conflict", 409, "aborted"),
    "KernelLimit": ("GateError", 403, "kernel_limit"),
    "BadOrigin": ("GateError", 403, "bad_origin"),
    "RateLimited": ("GateError", 429, "rate_limited"),
    "Unavailable": ("GateError", 503, "unavailable"),
    "EngineError": ("Unavailable", 503, "engine_unavailable"),
    "KernelStartError": ("Unavailable", 503, "kernel_start_failed"),
    "SessionInUse": ("Unavailable", 503, "session_in_use"),
    "StateNotSaved": ("Unavailable", 503, "state_not_saved"),
    "ShuttingDown": ("Unavailable", 503, "shutting_down"),
    "StoreError": ("Unavailable", 503, "store_unavailable"),
    "StoreFull": ("StoreError", 503, "store_full"),
    "LeaseLost": ("Unavailable", 503, "lease_lost"),
    "BlobsMissing": ("GateError", 500, "blobs_missing"),
    "KernelDied": ("GateError", 500, "kernel_died"),
    "StateRefused": ("GateError", 500, "state_refused"),
    "ImageError": ("GateError", 500, "image_error"),
    "ConfigError": ("GateError", 500, "config_error"),
}
"""What clients rely on: the base class, the status and the code of each error."""

LINE = re.compile(r"(?P<indent>[ │├└─]*)(?P<name>[A-Z]\w+) +(?P<status>\d{3}) (?P<code>\w+)")


def with_subclasses(cls: type[GateError]) -> Iterator[type[GateError]]:
    yield cls
    for subclass in cls.__subclasses__():
        if subclass.__module__ == errors.__name__:
            yield from with_subclasses(subclass)


CLASSES = list(with_subclasses(GateError))


def drawn_tree() -> dict[str, tuple[str, int, str]]:
    """The tree in the module's docstring."""
    drawn: dict[str, tuple[str, int, str]] = {}
    path = ["Exception"]
    for match in LINE.finditer(errors.__doc__ or ""):
        depth = (len(match["indent"]) - 4) // 4
        path[depth + 1 :] = [match["name"]]
        drawn[match["name"]] = (path[depth], int(match["status"]), match["code"])
    return drawn


def test_the_errors_are_the_ones_that_clients_know() -> None:
    assert {cls.__name__: (cls.__bases__[0].__name__, cls.status, cls.code) for cls in CLASSES} == TREE


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn_tree() == TREE


def test_every_code_is_unique() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_says_what_it_is_for_and_has_its_own_code(cls: type[GateError]) -> None:
    assert cls.__doc__
    assert "code" in vars(cls)
    assert 400 <= cls.status < 600


@pytest.mark.parametrize(
    ("error", "text", "details"),
    [
        (GateError("a"), "a", {}),
        (RateLimited("a", retry_after_seconds=3), "a", {"retry_after_seconds": 3}),
        (ConfigError(["a", "b"]), "a\nb", {}),
        (StateNotSaved("a"), "a", {"executed": True}),
        (BlobsMissing(["a", "b"]), "2 stored blobs that should have been kept are gone", {}),
    ],
)
def test_an_error_carries_its_message_and_its_details(
    error: GateError, text: str, details: dict[str, object]
) -> None:
    assert (str(error), error.details()) == (text, details)


def test_a_config_error_keeps_all_problems() -> None:
    assert ConfigError(["a", "b"]).problems == ["a", "b"]


def test_missing_blobs_are_named() -> None:
    assert BlobsMissing(["a", "b"]).names == {"a", "b"}
