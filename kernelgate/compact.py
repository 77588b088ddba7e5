"""JSON without spaces: what is stored, and what is sent."""

from __future__ import annotations

import json
from typing import Any

_ENCODER = json.JSONEncoder(separators=(",", ":"))
_UNICODE_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def compact_json(value: Any) -> str:
    """Return ``value`` as JSON in ASCII."""
    return _ENCODER.encode(value)


def compact_unicode_json(value: Any) -> str:
    """Return ``value`` as JSON with its characters as they are, lone surrogates among them."""
    return _UNICODE_ENCODER.encode(value)
