"""Opening and closing the files of an embedded log: its data directory holds one log, and no node's.

A directory in use, foreign, of another kind or version, or not accessible is refused by name. A log that is
proven rotten is refused too (SAFETY 19): `CorruptLog` names the offset up to which it is good.
"""

import logging
import os
from pathlib import Path
from typing import Final

from rlog.embedded.settings import World
from rlog.errors import ConfigurationError, CorruptLog
from rlog.log.directory import check_directory
from rlog.log.log import PartitionLog
from rlog.log.segment import Segment, segment_name
from rlog.log.settings import LogSettings
from rlog.log.storage import EMBEDDED, PARTITIONS, Storage

logger = logging.getLogger("rlog.embedded")

PARTITION: Final = "log"


class Store:
    """The open files. path: as the user named it, made absolute. name: its last part, what records call the
    log.
    """

    def __init__(self, path: str, storage: Storage, settings: LogSettings) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.storage = storage
        self._settings = settings
        self.log: PartitionLog = storage.logs[PARTITION]

    @staticmethod
    def open(path: str | os.PathLike[str], world: World, *, on_system: bool) -> "Store":
        """Blocking. Raises DataDirectoryError, CorruptLog, ConfigurationError; leaves nothing open then.

        on_system: the directory is one of the operating system's, whose mounts and owners can be looked at.
        """
        name = os.fspath(path)
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"path={path!r} is not a path: name a directory")
        directory = os.path.abspath(name)
        if on_system:
            for warning in check_directory(Path(directory)):
                logger.warning("%s", warning)
        storage = Storage.open(
            world.vfs,
            directory,
            random=world.random,
            partitions=[PARTITION],
            settings=world.log_settings,
            kind=EMBEDDED,
        )
        store = Store(directory, storage, world.log_settings)
        try:
            store._judge()
        except BaseException:
            store.abandon()
            raise
        return store

    def segment_path(self, segment: Segment) -> str:
        return f"{self.path}/{PARTITIONS}/{PARTITION}/{segment_name(segment.base_offset)}"

    def _judge(self) -> None:
        """What recovery found: rot is refused; an end that cannot be proven complete is told, once."""
        log = self.log
        if log.damage is not None:
            raise CorruptLog(
                f"{self.path} is damaged: {log.damage}. It is good below offset {log.end_offset}: bring the "
                "directory back from a copy",
                partition=self.name,
                offset=log.end_offset,
            )
        if log.suspect:
            logger.warning(
                "%s ends at offset %d, and nothing proves that no acknowledged record followed: its last "
                "segment was shortened, or changed by something else than a crash",
                self.path,
                log.end_offset,
            )
            log.clear_suspect()
            self.storage.meta.flush()

    def reopen(self) -> None:
        """Forget what memory holds, as a crash does, and open the files again; the lock is kept. Blocking.

        No job may be under way. Raises as open(); may be called again after whatever ended it.
        """
        self.storage = self.storage.reopen(self._settings)
        self.log = self.storage.logs[PARTITION]
        self._judge()

    def drop(self) -> None:
        """Close the files and unlock, recording nothing: the next opening recovers. Idempotent."""
        self.storage.drop()

    def close(self) -> None:
        """Orderly, blocking; no job may be under way. Raises StorageFailed, with everything closed."""
        self.storage.close()

    def abandon(self) -> None:
        """Close the descriptors and write nothing; in a forked child that takes nothing from the parent."""
        self.storage.abandon()
