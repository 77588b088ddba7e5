"""From a request's bytes to what it asks for. Pure: raises `InvalidRequest` that says what was expected."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernelgate.errors import InvalidRequest, SessionNotFound, UnsupportedLanguage
from kernelgate.languages import LANGUAGES, Language, find_language

SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
TIMEOUT_MS = (100, 300_000)
MAX_USER_CHARS = 256
MAX_STEPS = 1000
MAX_FORKS = 100
NUMBER = re.compile(r"[0-9]{1,16}")


@dataclass(frozen=True)
class ExecBody:
    """The body of ``POST /exec``. ``timeout`` in seconds."""

    language: Language
    code: str
    session_id: str
    user_id: str
    argv: tuple[str, ...]
    timeout: float | None
    allow_stdin: bool


def parse_exec(body: bytes) -> ExecBody:
    """Read the body of ``POST /exec``; fields that are not known are passed over."""
    fields = parse_object(body)
    parse_user(fields.get("entity_id"), "entity_id")
    return ExecBody(
        language=_language(fields),
        code=_code(fields),
        session_id=parse_session_id(fields.get("session_id")),
        user_id=parse_user(fields.get("user_id"), "user_id"),
        argv=_argv(fields.get("args")),
        timeout=_timeout(fields.get("timeout")),
        allow_stdin=_flag(fields.get("allow_stdin"), "allow_stdin"),
    )


def parse_input(body: bytes) -> tuple[str, str]:
    """Read the body of ``POST /sessions/{session_id}/input``: the user, and what the code is answered."""
    fields = parse_object(body)
    value = fields.get("value")
    if not isinstance(value, str):
        raise InvalidRequest(f"value: a text is expected, got {type_name(value)}")
    check_text(value, "value")
    return parse_user(fields.get("user_id"), "user_id"), value


def parse_caller(body: bytes) -> str:
    """Read a body that says no more than who calls, and may be empty: the user."""
    return parse_user((parse_object(body) if body else {}).get("user_id"), "user_id")


def parse_undo(body: bytes) -> tuple[str, int]:
    """Read the body of ``POST /sessions/{session_id}/undo``, which may be empty: the user, and how many steps."""
    fields = parse_object(body) if body else {}
    return parse_user(fields.get("user_id"), "user_id"), _whole(fields.get("steps", 1), "steps", 1, MAX_STEPS)


def parse_fork(body: bytes) -> tuple[str, int | None, int]:
    """Read the body of ``POST /sessions/{session_id}/fork``, which may be empty: user, version, how many."""
    fields = parse_object(body) if body else {}
    at = fields.get("at")
    version = None if at is None else _whole(at, "at", 0, 1 << 53)
    return (
        parse_user(fields.get("user_id"), "user_id"),
        version,
        _whole(fields.get("count", 1), "count", 1, MAX_FORKS),
    )


def parse_number(text: str, name: str, least: int, most: int) -> int:
    """Return the whole number that a query's argument is."""
    if not NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise InvalidRequest(
            f"{name}: a whole number from {least} to {most} is expected, got {_printable(text[:40])!r}"
        )
    return int(text)


def known_session_id(session_id: str) -> str:
    """Return the session id of a route. Raises `SessionNotFound` for what cannot be one."""
    if not SESSION_ID.fullmatch(session_id):
        raise SessionNotFound("there is no such session")
    return session_id


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that ``body`` holds."""
    if not body:
        raise InvalidRequest("a JSON object is expected in the body, got an empty one")
    try:
        value = json.loads(body)
    except RecursionError:
        raise InvalidRequest("the JSON is nested too deep") from None
    except ValueError as error:
        raise InvalidRequest(f"the body is no valid JSON: {_printable(str(error))}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"a JSON object is expected in the body, got {type_name(value)}")
    return value


def parse_session_id(value: object) -> str:
    """Return a session id, empty for none."""
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not SESSION_ID.fullmatch(value):
        raise InvalidRequest(f"session_id: 1 to 128 letters, digits, '-' or '_' are expected, got {_shown(value)}")
    return value


def parse_user(value: object, name: str) -> str:
    """Return a user's or entity's id, empty for none."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_USER_CHARS:
        came = f"{len(value)} characters" if isinstance(value, str) else type_name(value)
        raise InvalidRequest(f"{name}: a text of at most {MAX_USER_CHARS} characters is expected, got {came}")
    check_text(value, name)
    return value


def _whole(value: object, name: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        came = str(value)[:40] if isinstance(value, int | float) else type_name(value)
        raise InvalidRequest(f"{name}: a whole number from {least} to {most} is expected, got {came}")
    return value


def _language(fields: Mapping[str, Any]) -> Language:
    name = fields.get("lang")
    known = ", ".join(language.id for language in LANGUAGES)
    if not isinstance(name, str):
        raise InvalidRequest(f"lang: one of {known} is expected, got {type_name(name)}")
    language = find_language(name)
    if language is None:
        raise UnsupportedLanguage(f"lang: one of {known} is expected, got {_printable(name[:40])!r}")
    return language


def _code(fields: Mapping[str, Any]) -> str:
    code = fields.get("code")
    if not isinstance(code, str):
        raise InvalidRequest(f"code: a text is expected, got {type_name(code)}")
    check_text(code, "code")
    return code


def _argv(args: object) -> tuple[str, ...]:
    """Return the program's arguments: a list's items one by one, anything else as one; texts as they are."""
    if args is None:
        return ()
    items = args if isinstance(args, list) else [args]
    argv = tuple(item if isinstance(item, str) else json.dumps(item) for item in items)
    for item in argv:
        check_text(item, "args")
    return argv


def _flag(value: object, name: str) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name}: true or false is expected, got {type_name(value)}")
    return value


def _timeout(value: object) -> float | None:
    if value is None:
        return None
    least, most = TIMEOUT_MS
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidRequest(
            f"timeout: milliseconds from {least} to {most} are expected, got {_printable(repr(value)[:40])}"
        )
    return value / 1000


def check_text(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name}: there is a lone surrogate at character {error.start}") from None


def _shown(value: object) -> str:
    return repr(_printable(value[:40])) if isinstance(value, str) else type_name(value)


def type_name(value: object) -> str:
    names = {
        type(None): "nothing",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
    }
    return names.get(type(value), "an object")


def _printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")
