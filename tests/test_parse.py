"""Request bodies: every field valid and invalid, with the sentence that a client gets to read."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from kernelgate.api.parse import (
    ExecBody,
    parse_caller,
    parse_exec,
    parse_input,
    parse_object,
    parse_session_id,
    parse_user,
)
from kernelgate.errors import GateError, InvalidRequest, UnsupportedLanguage
from kernelgate.languages import PYTHON

MINIMAL = {"lang": "py", "code": "1"}


def exec_body(**fields: Any) -> ExecBody:
    return parse_exec(json.dumps({**MINIMAL, **fields}).encode())


def refusal(**fields: Any) -> GateError:
    with pytest.raises(GateError) as caught:
        exec_body(**fields)
    return caught.value


def test_the_least_that_a_request_needs() -> None:
    assert exec_body() == ExecBody(
        PYTHON, "1", session_id="", user_id="", argv=(), timeout=None, allow_stdin=False
    )


def test_all_fields_of_a_request() -> None:
    body = exec_body(
        lang="Python",
        code="é\n\0",
        session_id="a-B_9",
        user_id="ann",
        entity_id="e",
        args=["x", 1],
        timeout=1500,
        allow_stdin=True,
    )
    assert body == ExecBody(
        PYTHON,
        "é\n\0",
        session_id="a-B_9",
        user_id="ann",
        argv=("x", "1"),
        timeout=1.5,
        allow_stdin=True,
    )


@pytest.mark.parametrize("fields", [{"files": []}, {"stdin": "a"}, {"": None}, {"x": {"lang": "js"}}])
def test_fields_that_are_not_known_are_passed_over(fields: dict[str, Any]) -> None:
    assert exec_body(**fields) == exec_body()


@pytest.mark.parametrize("field", ["session_id", "user_id", "entity_id", "args", "timeout", "allow_stdin"])
def test_null_is_the_same_as_nothing(field: str) -> None:
    assert exec_body(**{field: None}) == exec_body()


VALID: list[tuple[str, Any, str, Any]] = [
    ("lang", "PY", "language", PYTHON),
    ("lang", "python3", "language", PYTHON),
    ("code", "", "code", ""),
    ("code", "\U0001f600", "code", "\U0001f600"),
    ("session_id", "", "session_id", ""),
    ("session_id", "a", "session_id", "a"),
    ("session_id", "a" * 128, "session_id", "a" * 128),
    ("user_id", "", "user_id", ""),
    ("user_id", "é" * 256, "user_id", "é" * 256),
    ("user_id", "a/../b\n", "user_id", "a/../b\n"),
    ("args", [], "argv", ()),
    ("args", "a b", "argv", ("a b",)),
    ("args", "", "argv", ("",)),
    ("args", 5, "argv", ("5",)),
    ("args", 1.5, "argv", ("1.5",)),
    ("args", False, "argv", ("false",)),
    ("args", {"a": [1, "é"]}, "argv", ('{"a": [1, "\\u00e9"]}',)),
    ("args", ["a", 1, None, True, [2], {"b": 3}], "argv", ("a", "1", "null", "true", "[2]", '{"b": 3}')),
    ("timeout", 100, "timeout", 0.1),
    ("timeout", 300_000, "timeout", 300),
    ("timeout", 1234.5, "timeout", 1.2345),
    ("allow_stdin", False, "allow_stdin", False),
    ("allow_stdin", True, "allow_stdin", True),
]


@pytest.mark.parametrize(("field", "value", "attribute", "expected"), VALID, ids=lambda value: str(value)[:30])
def test_a_valid_field_is_taken(field: str, value: Any, attribute: str, expected: Any) -> None:
    assert getattr(exec_body(**{field: value}), attribute) == expected


TIMEOUT = "timeout: milliseconds from 100 to 300000 are expected, got "
USER = "a text of at most 256 characters is expected, got "

INVALID: list[tuple[str, Any, str]] = [
    ("lang", None, "lang: one of py is expected, got nothing"),
    ("lang", 5, "lang: one of py is expected, got a number"),
    ("lang", ["py"], "lang: one of py is expected, got a list"),
    ("lang", True, "lang: one of py is expected, got a boolean"),
    ("lang", {}, "lang: one of py is expected, got an object"),
    ("code", None, "code: a text is expected, got nothing"),
    ("code", 1.5, "code: a text is expected, got a number"),
    ("code", ["a"], "code: a text is expected, got a list"),
    ("code", "ab\ud800", "code: there is a lone surrogate at character 2"),
    ("user_id", 5, f"user_id: {USER}a number"),
    ("user_id", {}, f"user_id: {USER}an object"),
    ("user_id", "a\udfff", "user_id: there is a lone surrogate at character 1"),
    ("entity_id", [], f"entity_id: {USER}a list"),
    ("entity_id", "\ud800", "entity_id: there is a lone surrogate at character 0"),
    ("args", ["a", "\ud800"], "args: there is a lone surrogate at character 0"),
    ("args", "a\ud800", "args: there is a lone surrogate at character 1"),
    ("timeout", 99, f"{TIMEOUT}99"),
    ("timeout", 300_001, f"{TIMEOUT}300001"),
    ("timeout", -1, f"{TIMEOUT}-1"),
    ("timeout", 0, f"{TIMEOUT}0"),
    ("timeout", "1000", f"{TIMEOUT}'1000'"),
    ("timeout", True, f"{TIMEOUT}True"),
    ("timeout", [1], f"{TIMEOUT}[1]"),
    ("timeout", "\ud800é", f"{TIMEOUT}'\\ud800\\xe9'"),
    ("timeout", 10**50, f"{TIMEOUT}{10**39}"),
    ("allow_stdin", 1, "allow_stdin: true or false is expected, got a number"),
    ("allow_stdin", "true", "allow_stdin: true or false is expected, got a text"),
]


@pytest.mark.parametrize(("field", "value", "sentence"), INVALID, ids=lambda value: ascii(value)[:30])
def test_an_invalid_field_is_refused_with_its_name_and_what_came(field: str, value: Any, sentence: str) -> None:
    error = refusal(**{field: value})
    assert (type(error), str(error)) == (InvalidRequest, sentence)


@pytest.mark.parametrize("field", ["user_id", "entity_id"])
def test_a_text_that_is_too_long_is_refused_with_its_length(field: str) -> None:
    sentence = str(refusal(**{field: "a" * 257}))
    assert sentence.startswith(f"{field}: {USER}")
    assert "257" in sentence


@pytest.mark.parametrize(
    "value",
    [5, False, ["a"], "a" * 129, "a b", "a\n", "../a", "é", "\u0661", "\ud800"],
    ids=lambda value: ascii(value)[:30],
)
def test_a_session_id_that_is_refused_says_what_came(value: object) -> None:
    sentence = str(refusal(session_id=value))
    assert sentence.startswith("session_id: 1 to 128 letters, digits, '-' or '_' are expected, got ")
    assert sentence.isascii()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("cobol", "'cobol'"), ("", "''"), ("é\ud800", "'\\\\xe9\\\\ud800'"), ("x" * 100, repr("x" * 40))],
)
def test_a_language_that_does_not_run_here_is_refused_with_the_ones_that_do(name: str, shown: str) -> None:
    error = refusal(lang=name)
    assert (type(error), str(error)) == (UnsupportedLanguage, f"lang: one of py is expected, got {shown}")


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_timeout_that_is_no_number_is_refused(constant: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_exec(b'{"lang":"py","code":"1","timeout":' + constant + b"}")


# --- bodies

NO_JSON = "the body is no valid JSON: "


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "a JSON object is expected in the body, got an empty one"),
        (b"[]", "a JSON object is expected in the body, got a list"),
        (b"null", "a JSON object is expected in the body, got nothing"),
        (b"5", "a JSON object is expected in the body, got a number"),
        (b"true", "a JSON object is expected in the body, got a boolean"),
        (b'"a"', "a JSON object is expected in the body, got a text"),
        (
            b"{",
            f"{NO_JSON}Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (b"lang=py", f"{NO_JSON}Expecting value: line 1 column 1 (char 0)"),
        (b"[" * 100_000, "the JSON is nested too deep"),
        (b'{"a":' * 100_000, "the JSON is nested too deep"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_object(body)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "body", [b"\xff\xfe\xfd", b'{"a":"\xc3"}', b'{"a":' + b"9" * 5_000 + b"}", b"{} {}", b"\0\0\0\0"]
)
def test_a_malformed_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^the body is no valid JSON: [ -~]+$"):
        parse_object(body)


def test_nested_args_are_taken_or_refused_however_deep_they_are() -> None:
    for depth in [*range(880, 1_000), 10, 100, 500, 5_000]:
        body = b'{"lang":"py","code":"1","args":' + b"[" * depth + b"]" * depth + b"}"
        try:
            assert len(parse_exec(body).argv) == 1
        except InvalidRequest as error:
            assert str(error) == "the JSON is nested too deep"  # noqa: PT017


def test_whatever_comes_is_taken_or_refused() -> None:
    rng = random.Random(4)
    valid = json.dumps({**MINIMAL, "session_id": "a", "user_id": "b", "args": [1, "x"], "timeout": 1000}).encode()
    outcomes = set()
    for _ in range(5_000):
        body = bytearray(valid)
        for _ in range(rng.randint(1, 5)):
            index = rng.randrange(len(body))
            body[index : index + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        try:
            parse_exec(bytes(body))
            outcomes.add("taken")
        except InvalidRequest:
            outcomes.add("refused")
    assert outcomes == {"taken", "refused"}


# --- single values


@pytest.mark.parametrize(("value", "parsed"), [(None, ""), ("", ""), ("a-_Z0", "a-_Z0")])
def test_a_session_id_is_parsed(value: object, parsed: str) -> None:
    assert parse_session_id(value) == parsed


@pytest.mark.parametrize(("value", "parsed"), [(None, ""), ("", ""), (" a ", " a ")])
def test_a_user_is_parsed(value: object, parsed: str) -> None:
    assert parse_user(value, "user_id") == parsed


@pytest.mark.parametrize(
    ("body", "user", "value"),
    [
        ({"value": "Ann"}, "", "Ann"),
        ({"value": ""}, "", ""),
        ({"value": "a\nb", "user_id": "ann", "more": 1}, "ann", "a\nb"),
    ],
)
def test_an_answer_to_a_question_is_parsed(body: Any, user: str, value: str) -> None:
    assert parse_input(json.dumps(body).encode()) == (user, value)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "value: a text is expected, got nothing"),
        ({"value": None}, "value: a text is expected, got nothing"),
        ({"value": 5}, "value: a text is expected, got a number"),
        ({"value": ["a"]}, "value: a text is expected, got a list"),
        ({"value": "\ud800"}, "value: there is a lone surrogate at character 0"),
        ({"value": "a", "user_id": 5}, f"user_id: {USER}a number"),
    ],
)
def test_an_answer_that_is_none_is_refused(body: Any, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_input(json.dumps(body).encode())
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("body", "user"), [(b"", ""), (b"{}", ""), (b'{"user_id": "ann"}', "ann")])
def test_a_body_that_only_says_who_calls_is_parsed(body: bytes, user: str) -> None:
    assert parse_caller(body) == user
