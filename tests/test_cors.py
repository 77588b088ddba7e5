"""Which pages may use the server from a browser."""

from __future__ import annotations

import pytest

from kernelgate.cors import Cors, is_same_site, unsafe_cors

LAB = "https://lab.example.com"


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ([], LAB, True),
        ([], "null", True),
        ([LAB], LAB, True),
        ([f"{LAB}/"], LAB, True),
        (["https://a.example", LAB], LAB, True),
        ([LAB], "http://lab.example.com", False),
        ([LAB], f"{LAB}:8443", False),
        ([LAB], f"{LAB}.evil.example", False),
        ([LAB], "https://evil.example", False),
        ([LAB], "null", False),
        ([LAB], "", False),
    ],
)
def test_pages_of_listed_origins_are_let_in(origins: list[str], origin: str, allowed: bool) -> None:
    cors = Cors(enabled=True, origins=origins)
    assert cors.allows(origin) is allowed
    assert cors.headers(origin, "x-api-key").get("Access-Control-Allow-Origin") == (origin if allowed else None)


@pytest.mark.parametrize("origins", [[], [LAB]])
def test_nothing_is_let_in_unless_cors_is_on(origins: list[str]) -> None:
    cors = Cors(origins=origins)
    assert (cors.allows(LAB), cors.headers(LAB, "x-api-key")) == (False, {})


def test_a_request_that_comes_from_no_page_needs_no_headers() -> None:
    assert Cors(enabled=True).headers(None, "x-api-key") == {}


def test_a_page_may_send_the_header_that_carries_the_key() -> None:
    named = Cors(enabled=True).headers(LAB, "X-Secret")["Access-Control-Allow-Headers"]
    assert {"Authorization", "Content-Type", "X-Secret"} <= set(named.split(", "))


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("https://Gate.Example", "gate.example", True),
        ("http://127.0.0.1:8001", "127.0.0.1:8000", False),
        ("http://localhost:8000", "127.0.0.1:8000", False),
        ("https://gate.example.evil.example", "gate.example", False),
        ("https://evil.example/gate.example", "gate.example", False),
        ("https://gate.example@evil.example", "gate.example", False),
        ("null", "gate.example", False),
        ("", "", False),
        ("http://[", "gate.example", False),
    ],
)
def test_a_page_of_the_servers_own_is_known_by_its_host(origin: str, host: str, same: bool) -> None:
    assert is_same_site(origin, host) is same


def test_every_site_at_once_is_unsafe() -> None:
    assert unsafe_cors(True, {}) == "on for every origin: list those you mean in CORS_ORIGINS"
    assert unsafe_cors(True, {"CORS_ORIGINS": [LAB]}) is None
    assert unsafe_cors(False, {}) is None
