"""Which web pages may use the server from a browser: https://fetch.spec.whatwg.org/#http-cors-protocol"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from traitlets import Bool, List, Unicode
from traitlets.config import LoggingConfigurable


def unsafe_cors(enabled: object, given: Mapping[str, object]) -> str | None:
    """Say what is unsafe about pages of any site."""
    anyone = enabled and not given.get("CORS_ORIGINS")
    return "on for every origin: list those you mean in CORS_ORIGINS" if anyone else None


class Cors(LoggingConfigurable):
    """Lets pages of other origins in, if they are listed. No cookies are used, so no browser lends them a key."""

    enabled = Bool(False, help="Let web pages of other origins use the API. For development.").tag(
        config=True, env="ENABLE_CORS", group="Development", insecure_with=unsafe_cors
    )
    origins = List(
        Unicode(), help="Origins that ENABLE_CORS lets in, such as https://lab.example.com. Empty: every origin."
    ).tag(config=True, env="CORS_ORIGINS", group="Development")

    def allows(self, origin: str) -> bool:
        """Tell whether a page of ``origin`` may use the API."""
        return self.enabled and (
            not self.origins or origin.rstrip("/") in (each.rstrip("/") for each in self.origins)
        )

    def headers(self, origin: str | None, key_header: str) -> dict[str, str]:
        """Return the headers of an answer to a page of ``origin``, which may send its key in ``key_header``."""
        if origin is None or not self.allows(origin):
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE, OPTIONS",
            "Access-Control-Allow-Headers": f"Authorization, Content-Type, X-Request-ID, {key_header}",
            "Access-Control-Expose-Headers": "X-Request-ID, Location, Retry-After",
            "Access-Control-Max-Age": "600",
            "Vary": "Origin",
        }


def is_same_site(origin: str, host: str) -> bool:
    """Tell whether ``origin`` is that of the server's own pages, which the client calls ``host``."""
    try:
        site = urlsplit(origin).netloc
    except ValueError:
        return False
    return site != "" and site.lower() == host.lower()
