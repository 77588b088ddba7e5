"""The error tree. Each error carries its HTTP status and a machine-readable code.

    GateError                      500 internal_error
    ├── InvalidRequest             400 invalid_request
    │   ├── UnsupportedLanguage    400 unsupported_language
    │   └── BodyTooLarge           413 body_too_large
    ├── Unauthorized               401 unauthorized
    ├── NotFound                   404 not_found
    │   ├── SessionNotFound        404 session_not_found
    │   ├── KernelNotFound         404 kernel_not_found
    │   ├── KernelspecNotFound     404 kernelspec_not_found
    │   └── VariableNotFound       404 variable_not_found
    ├── MethodNotAllowed           405 method_not_allowed
    ├── Conflict                   409 conflict             the session is not in a state that allows it
    │   └── Aborted                409 aborted              the session was restarted or ended before the code ran
    ├── KernelLimit                403 kernel_limit         there are as many kernels as there may be
    ├── BadOrigin                  403 bad_origin           a web page of another site asks
    ├── RateLimited                429 rate_limited         (has retry_after_seconds)
    ├── Unavailable                503 unavailable          try again later
    │   ├── EngineError            503 engine_unavailable   Docker refused, failed or did not answer
    │   ├── KernelStartError       503 kernel_start_failed  no kernel could be started
    │   ├── SessionInUse           503 session_in_use       another server uses the session
    │   ├── StateNotSaved          503 state_not_saved      the code ran, its state is not stored (has executed)
    │   ├── ShuttingDown           503 shutting_down        the server stops
    │   ├── StoreError             503 store_unavailable    a store refused, failed or did not answer
    │   │   └── StoreFull          503 store_full           a store has no room left
    │   └── LeaseLost              503 lease_lost           another server has taken the session over
    ├── BlobsMissing               500 blobs_missing        blobs that a commit builds on are gone
    ├── KernelDied                 500 kernel_died          the kernel ended while it was spoken to
    ├── StateRefused               500 state_refused        what is stored of a session is damaged or not ours
    ├── ImageError                 500 image_error          an image could not be built
    └── ConfigError                500 config_error         the configuration holds mistakes

An error in the user's code is no error of ours: it is a result.
"""

from __future__ import annotations

from collections.abc import Collection


class GateError(Exception):
    """Whatever kernelgate reports to a client. ``str(error)`` says what was expected, what came, what to do."""

    status = 500
    code = "internal_error"

    def details(self) -> dict[str, object]:
        """More fields for the error's JSON object."""
        return {}


class InvalidRequest(GateError):
    """The client sent something that cannot be understood."""

    status = 400
    code = "invalid_request"


class UnsupportedLanguage(InvalidRequest):
    """``lang`` names no language that runs here."""

    code = "unsupported_language"


class BodyTooLarge(InvalidRequest):
    """The request's body is over the limit."""

    status = 413
    code = "body_too_large"


class Unauthorized(GateError):
    """No key, or one that is not known."""

    status = 401
    code = "unauthorized"


class NotFound(GateError):
    """There is no such thing, or it belongs to somebody else."""

    status = 404
    code = "not_found"


class SessionNotFound(NotFound):
    """The owner has no session with that id."""

    code = "session_not_found"


class KernelNotFound(NotFound):
    """The owner has no kernel with that id."""

    code = "kernel_not_found"


class KernelspecNotFound(NotFound):
    """There is no kernel of that name."""

    code = "kernelspec_not_found"


class VariableNotFound(NotFound):
    """The session has no variable with that name."""

    code = "variable_not_found"


class MethodNotAllowed(GateError):
    """The route exists and does not know the method."""

    status = 405
    code = "method_not_allowed"


class Conflict(GateError):
    """What is asked for does not go with what the session is at the moment."""

    status = 409
    code = "conflict"


class Aborted(Conflict):
    """The session was restarted or shut down before the code ran."""

    code = "aborted"


class KernelLimit(GateError):
    """There are as many kernels as there may be."""

    status = 403
    code = "kernel_limit"


class BadOrigin(GateError):
    """A web page of another site asks."""

    status = 403
    code = "bad_origin"


class RateLimited(GateError):
    """Too much at once: the same call works after ``retry_after_seconds``."""

    status = 429
    code = "rate_limited"

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds

    def details(self) -> dict[str, object]:
        return {"retry_after_seconds": self.retry_after_seconds}


class Unavailable(GateError):
    """Something that the call needs does not work at the moment."""

    status = 503
    code = "unavailable"


class EngineError(Unavailable):
    """The Docker engine refused, failed, or did not answer."""

    code = "engine_unavailable"


class KernelStartError(Unavailable):
    """A kernel could not be started."""

    code = "kernel_start_failed"


class SessionInUse(Unavailable):
    """Another server uses the session and has not let go of it in time."""

    code = "session_in_use"


class StateNotSaved(Unavailable):
    """The code ran, but what it changed could not be stored: the session may go on from the state before."""

    code = "state_not_saved"

    def details(self) -> dict[str, object]:
        return {"executed": True}


class ShuttingDown(Unavailable):
    """The server stops and takes no more work."""

    code = "shutting_down"


class StoreError(Unavailable):
    """A store refused, failed, or did not answer in time. Works again by itself once the store does."""

    code = "store_unavailable"


class StoreFull(StoreError):
    """A store has no room for what it was to keep."""

    code = "store_full"


class LeaseLost(Unavailable):
    """The session's lease was taken over by another holder: nothing was written."""

    code = "lease_lost"


class BlobsMissing(GateError):
    """A commit builds on blobs that are gone; ``names`` lists them. Whoever gets it commits all blobs again."""

    code = "blobs_missing"

    def __init__(self, names: Collection[str]) -> None:
        super().__init__(f"{len(names)} stored blobs that should have been kept are gone")
        self.names = frozenset(names)


class KernelDied(GateError):
    """The kernel ended while it was spoken to."""

    code = "kernel_died"


class StateRefused(GateError):
    """What is stored of a session fails its check: it is damaged, or was stored by somebody else."""

    code = "state_refused"


class ImageError(GateError):
    """An image could not be built or found."""

    code = "image_error"


class ConfigError(GateError):
    """The configuration holds mistakes; ``problems`` lists all of them, one sentence each."""

    code = "config_error"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
