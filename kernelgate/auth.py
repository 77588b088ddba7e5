"""API keys: who is calling."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass

from traitlets import Int, List, Unicode
from traitlets.config import LoggingConfigurable

from kernelgate.errors import InvalidRequest, Unauthorized

DEFAULT_KEY = "test-api-key"
SHORTEST_SAFE_KEY = 16


@dataclass(frozen=True)
class Owner:
    """Whom a session belongs to: the API key (as a digest), and within it the user that the client names."""

    key: str
    user: str = ""


def unsafe_key(key: object) -> str | None:
    """Say what makes an API key unsafe in production, if anything does."""
    if key == DEFAULT_KEY:
        return "the public default, set a secret one"
    if isinstance(key, str) and len(key) < SHORTEST_SAFE_KEY:
        return f"{len(key)} characters, use at least {SHORTEST_SAFE_KEY} random ones"
    return None


def unsafe_keys(keys: object) -> str | None:
    """Say what makes additional API keys unsafe in production, if anything does."""
    short = [key for key in keys if len(key) < SHORTEST_SAFE_KEY] if isinstance(keys, list) else []
    if short:
        return f"{len(short)} of them have fewer than {SHORTEST_SAFE_KEY} characters"
    return None


class Authenticator(LoggingConfigurable):
    """Tells who calls from a request's headers."""

    api_key = Unicode(DEFAULT_KEY, help="The API key.").tag(
        config=True, env="API_KEY", group="Authentication", secret=True, insecure=unsafe_key
    )
    api_keys = List(Unicode(), help="More API keys. Each is a tenant of its own: sessions are not shared.").tag(
        config=True, env="API_KEYS", group="Authentication", secret=True, insecure=unsafe_keys
    )
    header = Unicode("x-api-key", help="Name of the HTTP header that carries the API key.").tag(
        config=True, env="API_KEY_HEADER", group="Authentication"
    )
    cache_ttl = Int(300, min=0, help="Seconds for which a key that was found valid is not looked for again.").tag(
        config=True, env="API_KEY_CACHE_TTL", group="Authentication"
    )

    def owner(self, headers: Mapping[str, str], user: str = "", token: str = "") -> Owner:
        """Return whose key the headers carry, or who is called by ``token`` when they carry none.

        Raises `Unauthorized`, and `InvalidRequest` for two keys at once.
        """
        presented = self._presented(headers) or token
        if not presented:
            raise Unauthorized(
                f"an API key is needed: send it in the header {self.header!r} or as 'Authorization: Bearer <key>'"
            )
        return Owner(self._known(_digest(presented)), user)

    def _presented(self, headers: Mapping[str, str]) -> str:
        named = headers.get(self.header, "").strip()
        own = "" if self.header.lower() == "authorization" else named
        scheme, _, credentials = headers.get("Authorization", "").strip().partition(" ")
        bearer = credentials.strip() if scheme.lower() in ("bearer", "token") else ""
        if own and bearer:
            raise InvalidRequest(f"one API key is expected, got two: in {self.header!r} and in 'Authorization'")
        return own or bearer or named

    def _known(self, digest: str) -> str:
        cached = self._cache.get(digest)
        if cached is not None and time.monotonic() - cached < self.cache_ttl:
            return digest
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # no early end: constant time
        if not any(matches):
            raise Unauthorized("the API key is not known")
        self._cache[digest] = time.monotonic()
        return digest

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._digests = [_digest(key.strip()) for key in (self.api_key, *self.api_keys) if key.strip()]
        self._cache: dict[str, float] = {}


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
