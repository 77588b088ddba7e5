"""Authentication: whose key a request carries, and in which header."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders
from traitlets import TraitError

from kernelgate.auth import DEFAULT_KEY, Authenticator, Owner, unsafe_key, unsafe_keys
from kernelgate.errors import InvalidRequest, Unauthorized

FIRST, SECOND, THIRD = "first-key-of-all", "second-key", "third-key"


def authenticator(**settings: Any) -> Authenticator:
    return Authenticator(**{"api_key": FIRST, "api_keys": [SECOND, THIRD], **settings})


def owner(user: str = "", auth: Authenticator | None = None, /, **headers: str) -> Owner:
    """Who calls with these headers; underscores stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (auth or authenticator()).owner(HTTPHeaders(named), user)


@pytest.mark.parametrize(
    "headers",
    [
        {"x_api_key": FIRST},
        {"X_API_KEY": FIRST},
        {"x_api_key": f"  {FIRST} "},
        {"Authorization": f"Bearer {FIRST}"},
        {"authorization": f"bearer {FIRST}"},
        {"Authorization": f"BEARER   {FIRST}  "},
        {"Authorization": f"Token {FIRST}"},
        {"Authorization": f"token {FIRST}"},
        {"x_api_key": FIRST, "Authorization": "Basic dTpw"},
        {"x_api_key": FIRST, "Authorization": ""},
        {"x_api_key": FIRST, "Authorization": "Bearer"},
        {"x_api_key": "", "Authorization": f"Bearer {FIRST}"},
    ],
    ids=str,
)
def test_a_known_key_is_taken_from_either_header(headers: dict[str, str]) -> None:
    assert owner(**headers) == owner(x_api_key=FIRST)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_api_key": ""},
        {"x_api_key": "  "},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {FIRST}"},
        {"Authorization": FIRST},
        {"Authorization": f"Bearer{FIRST}"},
        {"api_key": FIRST},
    ],
    ids=str,
)
def test_a_request_without_a_key_is_told_how_to_send_one(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized) as caught:
        owner(**headers)
    assert str(caught.value) == (
        "an API key is needed: send it in the header 'x-api-key' or as 'Authorization: Bearer <key>'"
    )


@pytest.mark.parametrize(
    "key",
    [
        "unknown",
        FIRST.upper(),
        FIRST[:-1],
        f"{FIRST}x",
        f"{FIRST},{SECOND}",
        f"{FIRST} x",
        DEFAULT_KEY,
        "\ud800",
        "é",
    ],
)
def test_a_key_that_is_not_known_is_refused_without_being_repeated(key: str) -> None:
    for headers in ({"x_api_key": key}, {"Authorization": f"Bearer {key}"}):
        with pytest.raises(Unauthorized, match=r"^the API key is not known$"):
            owner(**headers)


@pytest.mark.parametrize("other", [FIRST, SECOND, "unknown"])
def test_two_keys_at_once_are_refused(other: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^one API key is expected, got two: in 'x-api-key' and in 'Auth"):
        owner(x_api_key=FIRST, Authorization=f"Bearer {other}")


def test_each_key_is_a_tenant_of_its_own_and_each_user_an_owner() -> None:
    owners = [owner(user, x_api_key=key) for key in (FIRST, SECOND, THIRD) for user in ("", "ann", "Ann", "bob")]
    assert len(set(owners)) == 12
    assert [each.user for each in owners[:4]] == ["", "ann", "Ann", "bob"]


def test_the_same_key_and_user_are_the_same_owner_in_every_process() -> None:
    assert owner("ann", x_api_key=FIRST) == owner("ann", authenticator(api_keys=[]), x_api_key=FIRST)


def test_an_owner_does_not_hold_the_key() -> None:
    assert FIRST not in repr(owner(x_api_key=FIRST))


def test_the_header_has_the_name_that_is_set() -> None:
    auth = authenticator(header="X-Gate-Key")
    assert owner("", auth, x_gate_key=SECOND) == owner(x_api_key=SECOND)
    with pytest.raises(Unauthorized, match="'X-Gate-Key'"):
        owner("", auth, x_api_key=SECOND)


@pytest.mark.parametrize("value", [FIRST, f"Bearer {FIRST}", f"Token {FIRST}"])
def test_the_authorization_header_itself_may_be_the_one_that_is_set(value: str) -> None:
    auth = authenticator(header="Authorization")
    assert owner("", auth, Authorization=value) == owner(x_api_key=FIRST)


def test_no_key_at_all_lets_nobody_in() -> None:
    auth = authenticator(api_key="", api_keys=[""])
    for headers in ({"x_api_key": ""}, {"x_api_key": "a"}, {}):
        with pytest.raises(Unauthorized):
            owner("", auth, **headers)


@pytest.mark.parametrize("cache_ttl", [0, 1, 300])
def test_the_cache_changes_no_answer(cache_ttl: int) -> None:
    auth = authenticator(cache_ttl=cache_ttl)
    for _ in range(3):
        assert owner("", auth, x_api_key=SECOND).key == owner(x_api_key=SECOND).key
        for key in ("unknown", "another"):
            with pytest.raises(Unauthorized):
                owner("", auth, x_api_key=key)


def test_keys_go_on_being_known_when_the_cache_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    auth, now = authenticator(cache_ttl=10), time.monotonic()
    for seconds in (0, 5, 10, 11, 100):
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: now + seconds)
        assert owner("", auth, x_api_key=FIRST) == owner(x_api_key=FIRST)


def test_a_cache_time_below_zero_is_refused() -> None:
    with pytest.raises(TraitError):
        Authenticator(cache_ttl=-1)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (DEFAULT_KEY, "the public default, set a secret one"),
        ("", "0 characters, use at least 16 random ones"),
        ("a" * 15, "15 characters, use at least 16 random ones"),
        ("a" * 16, None),
    ],
)
def test_an_unsafe_key_is_told(key: str, sentence: str | None) -> None:
    assert unsafe_key(key) == sentence


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ([], None),
        (["a" * 16], None),
        (["a" * 16, "b", "c"], "2 of them have fewer than 16 characters"),
    ],
)
def test_unsafe_additional_keys_are_told(keys: list[str], sentence: str | None) -> None:
    assert unsafe_keys(keys) == sentence


def test_the_default_key_among_the_additional_ones_is_told() -> None:
    assert unsafe_keys(["a" * 16, DEFAULT_KEY]) is not None
