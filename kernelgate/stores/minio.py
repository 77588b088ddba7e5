"""The only door to MinIO (or another S3). Its blocking calls run on threads of its own, nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from xml.etree.ElementTree import ParseError

import certifi
import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error
from traitlets import Bool, Int, Unicode
from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError

from kernelgate.errors import StoreError, StoreFull
from kernelgate.stores.store import BlobStore, Item, Items, check_names

T = TypeVar("T")

FAILURES = (MinioException, HTTPError, OSError, ParseError)
DEFAULT_KEY = "minioadmin"
FULL = frozenset({"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"})
NO_ROOM = "no space left on device"
WRONG_KEYS = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})


class Endpoint(Unicode[str, str]):
    """A host, with or without a port."""

    info_text = "a host or host:port, without http:// and without a path"

    def validate(self, obj: Any, value: Any) -> str:
        endpoint = super().validate(obj, value)
        if not re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?", endpoint):
            self.error(obj, value)
        return endpoint


class BucketName(Unicode[str, str]):
    """A name that S3 takes for a bucket."""

    info_text = "3 to 63 of the characters a-z, 0-9, '-' and '.', with a letter or digit at both ends"

    def validate(self, obj: Any, value: Any) -> str:
        name = super().validate(obj, value)
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name) or ".." in name:
            self.error(obj, value)
        return name


def is_used(given: Mapping[str, Any]) -> bool:
    """Tell whether sessions are archived in MinIO, from the settings that are given."""
    choice = given.get("STATE_ARCHIVE_STORE", "auto")
    chosen = choice == "minio" or (choice == "auto" and "MINIO_ENDPOINT" in given)
    return chosen and bool(given.get("STATE_ARCHIVE_ENABLED", True))


def unsafe_key(key: object, given: Mapping[str, Any]) -> str | None:
    """Say what is unsafe about a secret key."""
    if key != DEFAULT_KEY or not is_used(given):
        return None
    return "MinIO's own default, so whoever reaches the MinIO may read and change all archives"


class MinioStore(BlobStore):
    """Blobs as objects in a bucket, which is made when it is not there."""

    endpoint = Endpoint(
        "localhost:9000",
        help="Host and port of the MinIO server, without a protocol. Once it is given, sessions are archived in "
        "MinIO (see STATE_ARCHIVE_STORE).",
    ).tag(config=True, env="MINIO_ENDPOINT", group="MinIO")
    access_key = Unicode(DEFAULT_KEY, help="Access key of MinIO.").tag(
        config=True, env="MINIO_ACCESS_KEY", group="MinIO"
    )
    secret_key = Unicode(DEFAULT_KEY, help="Secret key of MinIO.").tag(
        config=True, env="MINIO_SECRET_KEY", group="MinIO", secret=True, insecure_with=unsafe_key
    )
    secure = Bool(False, help="Speak HTTPS with MinIO.").tag(config=True, env="MINIO_SECURE", group="MinIO")
    bucket = BucketName(
        "code-interpreter-files", help="Bucket for archived sessions. It is made when it is not there."
    ).tag(config=True, env="MINIO_BUCKET", group="MinIO")
    region = Unicode("us-east-1", help="Region of the bucket.").tag(config=True, env="MINIO_REGION", group="MinIO")
    ca_file = Unicode(
        "", help="File with the certificate authorities to trust with MINIO_SECURE. Empty: the public ones."
    ).tag(config=True)
    connect_timeout = Int(5, min=1, help="Seconds that a connection to MinIO may take to be made.").tag(
        config=True
    )
    timeout = Int(10, min=1, help="Seconds that MinIO has for an answer.").tag(config=True)
    patience = Int(60, min=1, help="Seconds that one call, with all its objects, may take.").tag(config=True)
    threads = Int(8, min=1, max=64, help="Objects that are sent or fetched at once.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._client: Minio | None = None
        self._http: urllib3.PoolManager | None = None
        self._executor: ThreadPoolExecutor | None = None

    # ---- its life

    async def open(self) -> None:
        if self._client is None:
            self._http = urllib3.PoolManager(
                maxsize=self.threads,
                timeout=urllib3.Timeout(connect=self.connect_timeout, read=self.timeout),
                retries=urllib3.Retry(
                    total=1, redirect=0, status_forcelist=(502, 503, 504), raise_on_status=False
                ),
                cert_reqs="CERT_REQUIRED",
                # Not what SSL_CERT_FILE names, as the client would have it: that is this server's own certificate.
                ca_certs=self.ca_file or certifi.where(),
            )
            self._client = Minio(
                self.endpoint,
                access_key=self.access_key,
                secret_key=self.secret_key,
                secure=self.secure,
                region=self.region or None,
                http_client=self._http,
            )
            self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="minio")

    async def close(self) -> None:
        """Let go of everything. Calls under way end by themselves, within their timeouts."""
        if self._executor is not None and self._http is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._http.clear()
        self._client = self._http = self._executor = None

    async def check(self) -> None:
        async with self._deadline(self.timeout):
            await self._run(self._ensure_bucket)

    # ---- blobs

    async def put(self, blobs: Mapping[str, bytes]) -> None:
        check_names(blobs)

        def put(name: str) -> Callable[[Minio], object]:
            return lambda client: client.put_object(self.bucket, name, io.BytesIO(blobs[name]), len(blobs[name]))

        await self._run_all([put(name) for name in blobs])

    async def get(self, names: Iterable[str]) -> dict[str, bytes]:
        wanted = list(names)

        def get(name: str) -> Callable[[Minio], bytes | None]:
            return lambda client: self._read(client, name)

        blobs = await self._run_all([get(name) for name in wanted])
        return {name: blob for name, blob in zip(wanted, blobs, strict=True) if blob is not None}

    async def delete(self, names: Iterable[str]) -> None:
        doomed = [DeleteObject(name) for name in names]

        def delete(client: Minio) -> None:
            for error in client.remove_objects(self.bucket, doomed):
                raise StoreError(f"the MinIO at {self.endpoint} did not delete {error.name}: {error.message}")

        async with self._deadline(self.patience):
            await self._run(delete)

    async def list(self, prefix: str) -> Items:
        def look(client: Minio) -> Items:
            return [
                Item(
                    str(item.object_name),
                    int(item.size or 0),
                    item.last_modified.timestamp() if item.last_modified else 0.0,
                )
                for item in client.list_objects(self.bucket, prefix=prefix, recursive=True)
            ]

        async with self._deadline(self.patience):
            return await self._run(look)

    # ---- on the threads

    def _read(self, client: Minio, name: str) -> bytes | None:
        try:
            response = client.get_object(self.bucket, name)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None
            raise
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    def _ensure_bucket(self, client: Minio) -> None:
        if not client.bucket_exists(self.bucket):
            try:
                client.make_bucket(self.bucket, self.region or None)
            except S3Error as error:
                if error.code != "BucketAlreadyOwnedByYou":  # another thread, or another server, was faster
                    raise

    def _call(self, client: Minio, call: Callable[[Minio], T]) -> T:
        """Call, and once more with a new bucket when that was missing."""
        try:
            try:
                return call(client)
            except S3Error as error:
                if error.code != "NoSuchBucket":
                    raise
            self._ensure_bucket(client)
            return call(client)
        except FAILURES as error:
            raise self._translated(error) from error

    # ---- how MinIO is asked

    async def _run(self, call: Callable[[Minio], T]) -> T:
        client, executor = self._client, self._executor
        if client is None or executor is None:
            raise StoreError("the MinIO store is not open")
        return await asyncio.get_running_loop().run_in_executor(executor, self._call, client, call)

    async def _run_all(self, calls: Iterable[Callable[[Minio], T]]) -> Iterable[T]:
        """Run calls side by side. When one fails, those that have not begun are not begun."""
        async with self._deadline(self.patience):
            running = [asyncio.ensure_future(self._run(call)) for call in calls]
            try:
                return await asyncio.gather(*running)
            except BaseException:
                for call in running:
                    call.cancel()
                raise

    @contextlib.asynccontextmanager
    async def _deadline(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise StoreError(f"the MinIO at {self.endpoint} did not answer in {seconds:.0f} s") from error

    def _translated(self, error: Exception) -> StoreError:
        """Return what is to be told of a failure."""
        if isinstance(error, S3Error):
            if error.code in FULL or NO_ROOM in str(error.message):
                return StoreFull(f"the MinIO at {self.endpoint} is full: make room on its disks")
            reason = f"{error.code}: {error.message}"
            if error.code in WRONG_KEYS:
                return StoreError(
                    f"the MinIO at {self.endpoint} refuses the keys: set MINIO_ACCESS_KEY and MINIO_SECRET_KEY "
                    f"({reason})"
                )
            return StoreError(f"the MinIO at {self.endpoint} failed: {reason}")
        cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
        if isinstance(cause, ReadTimeoutError):
            return StoreError(f"the MinIO at {self.endpoint} did not answer in {self.timeout} s")
        if isinstance(error, (HTTPError, OSError)):
            return StoreError(
                f"the MinIO at {self.endpoint} cannot be reached: look whether it runs, and at MINIO_ENDPOINT and "
                f"MINIO_SECURE ({cause})"
            )
        return StoreError(f"what answers at MINIO_ENDPOINT {self.endpoint} is no MinIO: {str(error)[:200]}")
