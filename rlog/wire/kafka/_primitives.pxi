# Reader, Writer and FrameReceiver: the three ways bytes of the Kafka protocol enter and leave.
#
# A frame is an int32 size and that many bytes (big-endian, as everything in the protocol). Whatever comes from
# the network is read through Reader, which checks every length against what is left before it touches a byte
# and raises ProtocolError otherwise; nothing else in rlog.wire.kafka looks at raw bytes.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from rlog.errors import ProtocolError

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint16_t rlog_get16(const unsigned char *p) { uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v); }
    static inline uint32_t rlog_get32(const unsigned char *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
    static inline uint64_t rlog_get64(const unsigned char *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }
    static inline void rlog_put16(unsigned char *p, uint16_t v) { v = __builtin_bswap16(v); memcpy(p, &v, 2); }
    static inline void rlog_put32(unsigned char *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
    static inline void rlog_put64(unsigned char *p, uint64_t v) { v = __builtin_bswap64(v); memcpy(p, &v, 8); }
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "rlog is built for little-endian machines"
    #endif
    """
    int16_t rlog_get16(const uint8_t *p) noexcept nogil
    int32_t rlog_get32(const uint8_t *p) noexcept nogil
    int64_t rlog_get64(const uint8_t *p) noexcept nogil
    void rlog_put16(uint8_t *p, int16_t v) noexcept nogil
    void rlog_put32(uint8_t *p, int32_t v) noexcept nogil
    void rlog_put64(uint8_t *p, int64_t v) noexcept nogil


cdef class Reader:
    """Reads one frame from `position` on. Each method advances; a frame that is too short or that holds an
    impossible value raises ProtocolError. Views share the frame's memory."""

    cdef Py_buffer buffer
    cdef const uint8_t *data
    cdef Py_ssize_t size
    cdef readonly Py_ssize_t position
    cdef object source
    cdef object memory

    def __cinit__(self, data, Py_ssize_t position=0):
        PyObject_GetBuffer(data, &self.buffer, PyBUF_SIMPLE)
        self.data = <const uint8_t *>self.buffer.buf
        self.size = self.buffer.len
        self.source = data
        self.memory = None
        if position < 0 or position > self.size:
            raise ProtocolError(f"frame of {self.size} bytes ends before byte {position}")
        self.position = position

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)

    @property
    def remaining(self):
        return self.size - self.position

    cdef const uint8_t *take(self, Py_ssize_t count) except NULL:
        """`count` bytes, or ProtocolError. The only place that advances."""
        cdef const uint8_t *start = self.data + self.position
        if count < 0 or count > self.size - self.position:
            raise ProtocolError(
                f"frame ends early: {count} bytes wanted at byte {self.position} of {self.size}"
            )
        self.position += count
        return start

    cpdef int8_t int8(self) except? -1:
        return <int8_t>self.take(1)[0]

    cpdef int16_t int16(self) except? -1:
        return rlog_get16(self.take(2))

    cpdef int32_t int32(self) except? -1:
        return rlog_get32(self.take(4))

    cpdef int64_t int64(self) except? -1:
        return rlog_get64(self.take(8))

    cpdef bint boolean(self) except? -1:
        return self.take(1)[0] != 0

    cpdef uint32_t unsigned_varint(self) except? 0xffffffff:
        cdef uint32_t value = 0
        cdef int shift = 0
        cdef uint8_t byte
        while True:
            byte = self.take(1)[0]
            if shift == 28 and byte > 0x0f:
                raise ProtocolError(f"varint longer than 32 bits at byte {self.position}")
            value |= <uint32_t>(byte & 0x7f) << shift
            if byte < 0x80:
                return value
            shift += 7

    cdef str text(self, Py_ssize_t length):
        cdef const uint8_t *start = self.take(length)
        try:
            return PyUnicode_DecodeUTF8(<const char *>start, length, NULL)
        except UnicodeDecodeError as error:
            raise ProtocolError(f"string before byte {self.position} is not UTF-8") from error

    cpdef str nullable_string(self):
        cdef int16_t length = self.int16()
        if length < -1:
            raise ProtocolError(f"string of length {length} at byte {self.position}")
        return None if length == -1 else self.text(length)

    cpdef str string(self):
        cdef str value = self.nullable_string()
        if value is None:
            raise ProtocolError(f"null where a string is required, before byte {self.position}")
        return value

    cpdef str compact_string(self):
        cdef uint32_t length = self.unsigned_varint()
        if length == 0:
            raise ProtocolError(f"null where a string is required, before byte {self.position}")
        return self.text(<Py_ssize_t>length - 1)

    cpdef object nullable_bytes(self):
        """A view of an int32-sized section, or None."""
        cdef int32_t length = self.int32()
        cdef Py_ssize_t start
        if length < -1:
            raise ProtocolError(f"bytes of length {length} at byte {self.position}")
        if length == -1:
            return None
        start = self.position
        self.take(length)
        if self.memory is None:
            self.memory = memoryview(self.source).cast("B")
        return self.memory[start:start + length]

    cpdef Py_ssize_t array_length(self, Py_ssize_t element_bytes_min) except? -1:
        """Number of elements, -1 for null. A count that cannot fit into the frame is refused here, before
        anything is built for it. `element_bytes_min`: the smallest encoding of one element, at least 1."""
        return self.checked_length(self.int32(), element_bytes_min)

    cpdef Py_ssize_t compact_array_length(self, Py_ssize_t element_bytes_min) except? -1:
        return self.checked_length(<Py_ssize_t>self.unsigned_varint() - 1, element_bytes_min)

    cdef Py_ssize_t checked_length(self, Py_ssize_t count, Py_ssize_t element_bytes_min) except? -1:
        if count < -1 or count > (self.size - self.position) // element_bytes_min:
            raise ProtocolError(f"array of {count} elements before byte {self.position} of {self.size}")
        return count

    cpdef Py_ssize_t required_array_length(self, Py_ssize_t element_bytes_min) except? -1:
        cdef Py_ssize_t count = self.array_length(element_bytes_min)
        if count < 0:
            raise ProtocolError(f"null where an array is required, before byte {self.position}")
        return count

    cpdef list int32_array(self):
        cdef Py_ssize_t count = self.required_array_length(4)
        return [self.int32() for _ in range(count)]

    cpdef int skip_tagged_fields(self) except -1:
        """Unknown tagged fields are skipped, as KIP-482 asks."""
        cdef uint32_t count = self.unsigned_varint()
        while count > 0:
            self.unsigned_varint()
            self.take(<Py_ssize_t>self.unsigned_varint())
            count -= 1
        return 0

    cpdef int end(self) except -1:
        """Nothing may be left: a length that is not exact is a broken message."""
        if self.position != self.size:
            raise ProtocolError(f"{self.size - self.position} bytes left after the message")
        return 0


cdef enum:
    INLINE_BYTES_MAX = 1024  # sections up to this size are copied into the frame; larger ones leave as they are
    RECEIVE_BYTES = 65536  # receive buffer of a connection; frames that do not fit get memory of their own
    RECEIVE_SPACE_MIN = 8192  # with less room than this at its end, the receive buffer is moved together


cdef class Writer:
    """Builds one frame, size prefix included. Large sections are not copied: `frame()` is a list of buffers
    for `transport.writelines`, in which they appear as they were given."""

    cdef uint8_t *data
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity
    cdef Py_ssize_t spliced_bytes
    cdef list splices

    def __cinit__(self):
        self.capacity = 256
        self.data = <uint8_t *>PyMem_Malloc(self.capacity)
        if self.data is NULL:
            raise MemoryError()
        self.size = 4
        self.spliced_bytes = 0
        self.splices = None

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef uint8_t *reserve(self, Py_ssize_t count) except NULL:
        cdef Py_ssize_t capacity = self.capacity
        cdef uint8_t *grown
        cdef uint8_t *start
        if count > capacity - self.size:
            while count > capacity - self.size:
                capacity *= 2
            grown = <uint8_t *>PyMem_Realloc(self.data, capacity)
            if grown is NULL:
                raise MemoryError()
            self.data = grown
            self.capacity = capacity
        start = self.data + self.size
        self.size += count
        return start

    cpdef int int8(self, int8_t value) except -1:
        self.reserve(1)[0] = <uint8_t>value
        return 0

    cpdef int int16(self, int16_t value) except -1:
        rlog_put16(self.reserve(2), value)
        return 0

    cpdef int int32(self, int32_t value) except -1:
        rlog_put32(self.reserve(4), value)
        return 0

    cpdef int int64(self, int64_t value) except -1:
        rlog_put64(self.reserve(8), value)
        return 0

    cpdef int boolean(self, bint value) except -1:
        self.reserve(1)[0] = 1 if value else 0
        return 0

    cpdef int unsigned_varint(self, uint32_t value) except -1:
        while value >= 0x80:
            self.reserve(1)[0] = <uint8_t>(value & 0x7f) | 0x80
            value >>= 7
        self.reserve(1)[0] = <uint8_t>value
        return 0

    cpdef int string(self, str value) except -1:
        cdef Py_ssize_t length
        cdef const char *text = PyUnicode_AsUTF8AndSize(value, &length)
        if length > 32767:
            raise ValueError(f"string of {length} bytes; the protocol carries at most 32767")
        rlog_put16(self.reserve(2), <int16_t>length)
        memcpy(self.reserve(length), text, length)
        return 0

    cpdef int nullable_string(self, str value) except -1:
        return self.int16(-1) if value is None else self.string(value)

    cpdef int compact_string(self, str value) except -1:
        cdef Py_ssize_t length
        cdef const char *text = PyUnicode_AsUTF8AndSize(value, &length)
        self.unsigned_varint(<uint32_t>(length + 1))
        memcpy(self.reserve(length), text, length)
        return 0

    cpdef int int32_array(self, values) except -1:
        self.int32(len(values))
        for value in values:
            self.int32(value)
        return 0

    cpdef int sections(self, buffers) except -1:
        """An int32-sized bytes field made of `buffers` one after the other."""
        cdef Py_ssize_t total = 0
        for buffer in buffers:
            total += len(buffer)
        if total > 0x7fffffff:
            raise ValueError(f"bytes field of {total} bytes; the protocol carries at most 2147483647")
        self.int32(<int32_t>total)
        for buffer in buffers:
            self.raw(buffer)
        return 0

    cdef int raw(self, buffer) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t length = len(buffer)
        if length > INLINE_BYTES_MAX:
            if self.splices is None:
                self.splices = []
            self.splices.append((self.size, buffer))
            self.spliced_bytes += length
        elif length > 0:
            PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
            try:
                memcpy(self.reserve(view.len), view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
        return 0

    cpdef list frame(self):
        """The finished frame. The writer is not used afterwards."""
        cdef Py_ssize_t total = self.size - 4 + self.spliced_bytes
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t position
        if total > 0x7fffffff:
            raise ValueError(f"frame of {total} bytes; the protocol carries at most 2147483647")
        rlog_put32(self.data, <int32_t>total)
        if self.splices is None:
            return [PyBytes_FromStringAndSize(<char *>self.data, self.size)]
        frame = []
        for position, buffer in self.splices:
            if position > done:
                frame.append(PyBytes_FromStringAndSize(<char *>self.data + done, position - done))
            frame.append(buffer)
            done = position
        if done < self.size:
            frame.append(PyBytes_FromStringAndSize(<char *>self.data + done, self.size - done))
        return frame


cdef class FrameReceiver:
    """Cuts a byte stream into frames; made for asyncio.BufferedProtocol.

    `get_buffer` says where the next bytes go, `received(count)` tells how many came and returns the frames that
    are complete, without their size prefix. A frame that does not fit into the 64 KiB receive buffer gets
    memory of its own and the loop reads straight into it; others are copied out. That memory is taken by the
    next `get_buffer`, so whoever pauses reading at `pending_bytes` decides when. A frame is never touched again
    after it was returned, so views of it stay good for as long as they are held.
    """

    cdef bytearray buffer
    cdef object buffer_view
    cdef Py_ssize_t start
    cdef Py_ssize_t filled
    cdef bytearray large
    cdef object large_view
    cdef Py_ssize_t large_filled
    cdef readonly Py_ssize_t pending_bytes
    """Size of the large frame that is under way, 0 if there is none."""
    cdef readonly Py_ssize_t size_max

    def __cinit__(self, Py_ssize_t size_max):
        self.buffer = PyByteArray_FromStringAndSize(NULL, RECEIVE_BYTES)
        self.buffer_view = memoryview(self.buffer)
        self.start = self.filled = 0
        self.large = None
        self.large_view = None
        self.large_filled = self.pending_bytes = 0
        self.size_max = size_max

    def get_buffer(self, Py_ssize_t size_hint):
        """Where to put the next bytes; never empty. For `BufferedProtocol.get_buffer`."""
        cdef char *data = PyByteArray_AS_STRING(self.buffer)
        if self.pending_bytes > 0:
            if self.large is None:
                self.begin_large()
            return self.large_view[self.large_filled:]
        if self.start == self.filled:
            self.start = self.filled = 0
        elif self.start > 0 and RECEIVE_BYTES - self.filled < RECEIVE_SPACE_MIN:
            memmove(data, data + self.start, self.filled - self.start)
            self.filled -= self.start
            self.start = 0
        return self.buffer_view[self.filled:]

    def received(self, Py_ssize_t count):
        """`count` bytes arrived in the last buffer. Returns the frames they complete, in order.

        Raises ProtocolError for a size that is negative or above `size_max`: the stream is lost then.
        """
        if self.large is not None:
            self.large_filled += count
            if self.large_filled < self.pending_bytes:
                return []
            frame = self.large
            self.large = None
            self.large_view = None
            self.pending_bytes = 0
            return [frame]
        self.filled += count
        return self.cut()

    def unread(self, Py_ssize_t count_max):
        """The first bytes that are not part of a frame yet, at most so many; of a large frame none."""
        cdef Py_ssize_t count = min(count_max, self.filled - self.start)
        return PyBytes_FromStringAndSize(PyByteArray_AS_STRING(self.buffer) + self.start, count)

    cdef list cut(self):
        cdef list frames = []
        cdef char *data = PyByteArray_AS_STRING(self.buffer)
        cdef Py_ssize_t have
        cdef int32_t size
        while self.filled - self.start >= 4:
            size = rlog_get32(<const uint8_t *>data + self.start)
            if size < 0 or size > self.size_max:
                raise ProtocolError(f"frame of {size} bytes; accepted are 0 to {self.size_max}")
            have = self.filled - self.start - 4
            if have >= size:
                frames.append(PyBytes_FromStringAndSize(data + self.start + 4, size))
                self.start += 4 + size
                continue
            if size > RECEIVE_BYTES - 4:
                self.pending_bytes = size
            break
        return frames

    cdef int begin_large(self) except -1:
        """What the receive buffer holds is the size and the first bytes of a large frame: move them."""
        cdef char *data = PyByteArray_AS_STRING(self.buffer)
        self.large_filled = self.filled - self.start - 4
        self.large = PyByteArray_FromStringAndSize(NULL, self.pending_bytes)
        memcpy(PyByteArray_AS_STRING(self.large), data + self.start + 4, self.large_filled)
        self.large_view = memoryview(self.large)
        self.start = self.filled = 0
        return 0
