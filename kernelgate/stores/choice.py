"""Which stores there are: what the settings say, or what they suggest."""

from __future__ import annotations

from typing import Any

from traitlets import Enum
from traitlets.config import Config, LoggingConfigurable

from kernelgate.stores.embedded import EmbeddedStore
from kernelgate.stores.minio import MinioStore
from kernelgate.stores.redis import RedisStore
from kernelgate.stores.store import BlobStore, SessionStore

ARCHIVE = "archive"


class Stores(LoggingConfigurable):
    """``hot`` keeps the live sessions; ``cold``, if there is one, those that were archived."""

    storage = Enum(
        ["auto", "embedded", "redis"],
        default_value="auto",
        help="Where live sessions are kept: embedded (in the folder STATE_DIR) or redis. "
        "auto: redis when REDIS_URL or REDIS_HOST is given, else embedded.",
    ).tag(config=True, env="STATE_STORE", group="State persistence")
    archive = Enum(
        ["auto", "embedded", "minio", "none"],
        default_value="auto",
        help="Where archived sessions are kept: embedded (below STATE_DIR), minio, or none. auto: minio when "
        "MINIO_ENDPOINT is given, else embedded next to embedded live sessions and none next to Redis.",
    ).tag(config=True, env="STATE_ARCHIVE_STORE", group="State archival")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hot: SessionStore = self._hot()
        self.cold: BlobStore | None = self._cold()

    def _hot(self) -> SessionStore:
        redis_is_set = is_set(self.config, RedisStore, "url") or is_set(self.config, RedisStore, "host")
        if self.storage == "redis" or (self.storage == "auto" and redis_is_set):
            return RedisStore(parent=self)
        return EmbeddedStore(parent=self)

    def _cold(self) -> BlobStore | None:
        choice = self.archive
        if choice == "auto":
            local = "embedded" if isinstance(self.hot, EmbeddedStore) else "none"
            choice = "minio" if is_set(self.config, MinioStore, "endpoint") else local
        if choice == "minio":
            return MinioStore(parent=self)
        return EmbeddedStore(parent=self, subfolder=ARCHIVE) if choice == "embedded" else None

    async def open(self) -> None:
        """Open both. Services that are down are no error here. Raises `StoreError`; nothing is open then."""
        await self.hot.open()
        if self.cold is not None:
            try:
                await self.cold.open()
            except BaseException:
                await self.hot.close()
                raise

    async def close(self) -> None:
        if self.cold is not None:
            await self.cold.close()
        await self.hot.close()


def is_set(config: Config, cls: type, name: str) -> bool:
    """Tell whether a configuration has a value for a trait of ``cls``, also in a section within a section."""
    return any(
        (section == cls.__name__ and name in content) or is_set(content, cls, name)
        for section, content in config.items()
        if isinstance(content, Config)
    )
