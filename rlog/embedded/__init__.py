"""The embedded log: durable, in this process, without a server.

log.py      what a user opens            commit.py   group commit across threads
aio.py      its asyncio twin             writer.py   offsets, groups and their jobs
reader.py   reading                      chunks.py   the same for asyncio
batches.py  lists into batches           arguments.py  numbers from callers
store.py    the directory                room.py     room for bytes that wait for the disk
settings.py what may be chosen           lifetime.py forks and exits
"""

from rlog.embedded.aio import AsyncLog, open_async
from rlog.embedded.batches import NewRecord
from rlog.embedded.log import Log, open

__all__ = ["AsyncLog", "Log", "NewRecord", "open", "open_async"]
