"""Seals what is stored of sessions, so that what comes back is known to be ours and whole. Pure.

A record is sealed with a key that only servers have; all else is named by its SHA-256, and a sealed record leads
to each name. So a flipped bit, a cut blob and one that somebody else put there are found before they are used.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from kernelgate.errors import StateRefused
from kernelgate.sessions.record import digest_of

SEAL_BYTES = hashlib.sha256().digest_size
PURPOSE = b"kernelgate state 1"


class Seal:
    """Seals bytes under a name with a secret key."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), PURPOSE, "sha256")

    def close(self, name: str, data: bytes) -> bytes:
        """Return ``data`` sealed for ``name``."""
        return self._mac(name, data) + data

    def open(self, name: str, sealed: bytes) -> bytes:
        """Return what was sealed for ``name``. Raises `StateRefused`."""
        seal, data = sealed[:SEAL_BYTES], sealed[SEAL_BYTES:]
        if not hmac.compare_digest(seal, self._mac(name, data)):
            raise StateRefused("the session's record fails its check: it is damaged or has another server's seal")
        return data

    def _mac(self, name: str, data: bytes) -> bytes:
        return hmac.digest(self._key, name.encode() + b"\0" + data, "sha256")


def is_whole(name: str, data: bytes) -> bool:
    """Tell whether a blob is what its name says."""
    return hashlib.sha256(data).hexdigest() == digest_of(name)


def only_whole(blobs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return those of the blobs that are what their names say."""
    return {name: data for name, data in blobs.items() if is_whole(name, data)}


def check(blobs: Mapping[str, bytes]) -> None:
    """Raise `StateRefused` when a blob is not what its name says."""
    for name, data in blobs.items():
        if not is_whole(name, data):
            raise StateRefused("a part of the stored state fails its check: it is damaged or was changed")
