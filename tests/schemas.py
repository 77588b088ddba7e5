"""Checks of what a server says against its own OpenAPI document."""

from __future__ import annotations

from functools import cache
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from kernelgate.api.openapi import document


@cache
def validator(name: str) -> Draft202012Validator:
    """The validator of a schema of the document, as strict about times and ids as can be."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def check(value: Any, name: str) -> None:
    """Fail when ``value`` is not as the document describes ``name``."""
    problems = [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(value)]
    assert problems == []
