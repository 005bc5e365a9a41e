"""The native core of rlog: one compiled module made of many readable files, included below by noun.

What lives here, and why
------------------------
Record bytes are encoded, compressed and checksummed once, by the producer (`native/builder.pxi`). The leader
checks a batch's structure and CRC (`native/batch.pxi`), stamps base offset and generation in place, and
copies it once into the group buffer of the tick (`native/span.pxi`). Followers, disk and consumers get the same
bytes. Nothing before the consumer (`native/records.pxi`) ever looks at a single record.

Rules that hold in every included file
--------------------------------------
1. Bytes from outside (a client, a peer, a disk) are only read through leaf functions that take a pointer and
   a length and check both; they are `noexcept nogil`, never allocate, and report a fault as a code. The
   Python-facing functions turn codes into `CorruptBatch` with the position of the bad batch.
2. A pointer lives no longer than the `Py_buffer` or owner object that pins its memory. Memory handed to
   Python is read-only and is freed when its last export dies.
3. Offsets used as boundaries are exclusive ends. Sizes and positions are bytes.
4. Multi-byte numbers of the format are big-endian and unaligned: always `load_*` / `store_*`.
5. The CRC and the codecs (`native/codecs.pxi`) come from packages that are called once per batch; they beat what
   could be written here, and a batch is large enough to hide the call.

What is not handled: message formats 0 and 1 (refused by magic), and checking that the records inside a client's
compressed batch parse (the leader never decompresses; readers check).
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_Check,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.memoryview cimport PyMemoryView_FromMemory, PyMemoryView_FromObject
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.errno cimport EINTR, EIO, ENOSPC, errno
from libc.stdint cimport (
    INT32_MAX,
    INT64_MAX,
    int16_t,
    int32_t,
    int64_t,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
)
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

cimport cython

from rlog.errors import BatchTooLarge, CorruptBatch, InvalidTimestamp, InvariantBroken, UnsupportedCodec

include "native/batch.pxi"
include "native/codecs.pxi"
include "native/records.pxi"
include "native/builder.pxi"
include "native/span.pxi"
include "native/vfs.pxi"
include "native/disk.pxi"
include "native/round.pxi"
include "native/segment.pxi"
include "native/time.pxi"
include "native/heap.pxi"
