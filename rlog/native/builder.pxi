# BatchBuilder: records into one batch, at the producer. records.pxi has the drawing of a record.

cdef enum:
    CAPACITY_MIN = 512


cdef inline uint64_t zigzag(int64_t value) noexcept nogil:
    return (<uint64_t> value << 1) ^ <uint64_t> (value >> 63)


cdef inline int varint_size(int64_t value) noexcept nogil:
    cdef uint64_t raw = zigzag(value)
    cdef int size = 1
    while raw > 0x7F:
        raw >>= 7
        size += 1
    return size


cdef inline uint8_t* put_varint(uint8_t* data, int64_t value) noexcept nogil:
    """The caller has made room for varint_size(value) bytes."""
    cdef uint64_t raw = zigzag(value)
    while raw > 0x7F:
        data[0] = <uint8_t> (raw | 0x80)
        raw >>= 7
        data += 1
    data[0] = <uint8_t> raw
    return data + 1


cdef inline uint8_t* put_bytes(uint8_t* data, const void* source, int64_t size) noexcept nogil:
    data = put_varint(data, size)
    memcpy(data, source, size)
    return data + size


cdef list encoded_headers(headers):
    """Names and values of the headers in turn, as bytes or None."""
    cdef list parts = []
    for name, value in headers:
        if type(name) is not str or not (value is None or type(value) is bytes):
            raise TypeError("headers are (str, bytes or None) pairs")
        parts.append((<str> name).encode("utf-8"))
        parts.append(value)
    return parts


cdef inline int64_t field_size(bytes field) noexcept:
    return 1 if field is None else varint_size(PyBytes_GET_SIZE(field)) + PyBytes_GET_SIZE(field)


cdef inline uint8_t* put_field(uint8_t* data, bytes field) noexcept:
    if field is None:
        return put_varint(data, -1)
    return put_bytes(data, PyBytes_AS_STRING(field), PyBytes_GET_SIZE(field))


@cython.final
@cython.no_gc
cdef class BatchBuilder:
    """Encodes records into one batch, as a producer sends it. build() ends it.

    The batch is written in place into the bytes object that build() returns.
    """

    cdef PyObject* buffer           # a bytes object that nobody else has seen yet; NULL once built
    cdef int64_t capacity
    cdef int64_t used               # header and records so far
    cdef int64_t size_max
    cdef int64_t base_timestamp
    cdef int64_t max_timestamp
    cdef int64_t producer_id
    cdef int producer_epoch
    cdef int32_t base_sequence
    cdef int codec
    cdef readonly int32_t count

    def __cinit__(
        self, *, int64_t batch_bytes_max, str compression not None="none",
        int64_t producer_id=-1, int16_t producer_epoch=-1, int32_t base_sequence=-1,
    ):
        if not HEADER_SIZE + RECORD_SIZE_MIN <= batch_bytes_max <= INT32_MAX:
            raise ValueError(f"batch_bytes_max={batch_bytes_max} is not within [68, 2^31 - 1]")
        if compression not in CODEC_NAMES:
            raise ValueError(f"compression={compression!r} is none of {', '.join(CODEC_NAMES)}")
        self.codec = CODEC_NAMES.index(compression)
        self.size_max = batch_bytes_max
        self.capacity = min(CAPACITY_MIN, batch_bytes_max)
        self.buffer = _raw_bytes(NULL, self.capacity)
        self.used = HEADER_SIZE
        self.set_producer(producer_id, producer_epoch, base_sequence)

    def __dealloc__(self):
        Py_XDECREF(self.buffer)

    @property
    def size(self):
        """Bytes so far, header included, before compression."""
        return self.used

    def set_producer(self, int64_t producer_id, int16_t epoch, int32_t base_sequence):
        """Set the idempotent producer's fields; allowed until build(). -1 -1 -1: not idempotent."""
        if (producer_id, epoch, base_sequence) != (-1, -1, -1) and min(producer_id, epoch, base_sequence) < 0:
            raise ValueError(f"no producer has id {producer_id}, epoch {epoch} and sequence {base_sequence}")
        self.producer_id = producer_id
        self.producer_epoch = epoch
        self.base_sequence = base_sequence

    cdef int grow(self, int64_t needed) except -1:
        """Room for `needed` bytes in all; the caller checked it against size_max."""
        if self.buffer == NULL:
            raise ValueError("this BatchBuilder has built its batch")
        if needed > self.capacity:
            self.resize(min(self.size_max, max(needed, 2 * self.used)))
        return 0

    cdef int resize(self, int64_t capacity) except -1:
        """Should memory run out, the buffer is gone, and the builder as good as built."""
        _resize_bytes(&self.buffer, capacity)
        self.capacity = capacity
        return 0

    cdef inline uint8_t* tail(self) noexcept:
        return <uint8_t*> PyBytes_AS_STRING(<object> self.buffer) + self.used

    cdef inline void count_record(self, int64_t timestamp_ms) noexcept:
        if self.count == 0:
            self.base_timestamp = self.max_timestamp = timestamp_ms
        elif timestamp_ms > self.max_timestamp:
            self.max_timestamp = timestamp_ms
        self.count += 1

    cdef object too_large(self, int64_t size):
        return BatchTooLarge(
            f"a record makes a batch of {size} bytes; at most {self.size_max} are allowed",
            size_bytes=size, bytes_max=self.size_max,
        )

    def append(self, bytes value, bytes key=None, headers=(), int64_t timestamp_ms=-1):
        """Add one record; False when it does not fit any more (nothing was added then).

        Raises BatchTooLarge when it would not fit an empty batch either.
        """
        cdef int64_t timestamp_delta = self.delta_of(timestamp_ms)
        cdef list parts = encoded_headers(headers)
        cdef int64_t body = 1 + varint_size(timestamp_delta) + varint_size(self.count) + field_size(key)
        cdef int64_t needed
        cdef uint8_t* data
        body += field_size(value) + varint_size(len(parts) // 2)
        for part in parts:
            body += field_size(part)
        needed = self.used + varint_size(body) + body
        if needed > self.size_max:
            if self.count == 0:
                raise self.too_large(needed)
            return False
        self.grow(needed)
        data = put_varint(self.tail(), body)
        data[0] = 0
        data = put_varint(data + 1, timestamp_delta)
        data = put_varint(data, self.count)
        data = put_field(data, key)
        data = put_field(data, value)
        data = put_varint(data, len(parts) // 2)
        for part in parts:
            data = put_field(data, part)
        self.count_record(timestamp_ms)
        self.used = needed
        return True

    def append_values(self, values, int64_t start, int64_t timestamp_ms):
        """Add values[start:] of a list or tuple of bytes, without keys, as far as they fit; returns how many.

        Raises TypeError or BatchTooLarge when values[start] itself is not bytes or fits no batch: what comes
        before a bad value is taken first.
        """
        cdef int64_t total
        cdef int64_t index = start
        if type(values) is not list and type(values) is not tuple:
            raise TypeError(f"values are a list or tuple of bytes, not {type(values).__name__}")
        total = len(values)
        if not 0 <= start <= total:
            raise ValueError(f"start={start} is not within [0, {total}]")
        self.grow(0)
        while index < total:
            value = (<list> values)[index] if type(values) is list else (<tuple> values)[index]
            if not PyBytes_Check(value):
                if index > start:
                    break
                raise TypeError(f"values[{index}] is not bytes but {type(value).__name__}")
            if not self.append_value(<bytes> value, timestamp_ms):
                break
            index += 1
        return index - start

    cdef inline bint append_value(self, bytes value, int64_t timestamp_ms) except -1:
        """One record of a bare value: as append(), less general and faster."""
        cdef int64_t timestamp_delta = self.delta_of(timestamp_ms)
        cdef int64_t size = PyBytes_GET_SIZE(value)
        cdef int64_t body = 3 + varint_size(timestamp_delta) + varint_size(self.count)
        cdef int64_t needed
        cdef uint8_t* data
        body += varint_size(size) + size
        needed = self.used + varint_size(body) + body
        if needed > self.capacity:
            if needed > self.size_max:
                if self.count == 0:
                    raise self.too_large(needed)
                return False
            self.grow(needed)
        data = put_varint(self.tail(), body)
        data[0] = 0
        data = put_varint(data + 1, timestamp_delta)
        data = put_varint(data, self.count)
        data[0] = 1         # null key
        data = put_bytes(data + 1, PyBytes_AS_STRING(value), size)
        data[0] = 0         # no headers
        self.count_record(timestamp_ms)
        self.used = needed
        return True

    cdef inline int64_t delta_of(self, int64_t timestamp_ms) noexcept:
        """Unsigned: a difference of any two numbers is defined, and wraps back at the decoder."""
        return <int64_t> (<uint64_t> timestamp_ms - <uint64_t> self.base_timestamp) if self.count else 0

    def build(self):
        """The encoded batch, unstamped. Raises ValueError when it is empty or built already.

        Records that compression does not make smaller are sent plain.
        """
        cdef int codec = CODEC_NONE
        cdef bytes batch
        self.grow(0)
        if self.count == 0:
            raise ValueError("a batch holds at least one record")
        if self.codec != CODEC_NONE and self.compress():
            codec = self.codec
        self.resize(self.used)
        write_header(
            self.tail() - self.used, self.used, codec, self.count, self.base_timestamp, self.max_timestamp,
            self.producer_id, self.producer_epoch, self.base_sequence,
        )
        batch = <bytes> self.buffer
        Py_DECREF(batch)        # the builder's own reference moves to the caller
        self.buffer = NULL
        return batch

    cdef bint compress(self) except -1:
        """Replace the records by their compressed form, if that is smaller."""
        cdef uint8_t* records = self.tail() - self.used + HEADER_SIZE
        cdef int64_t size = self.used - HEADER_SIZE
        cdef bytes frame = compress(PyMemoryView_FromMemory(<char*> records, size, PyBUF_READ), self.codec)
        if len(frame) >= size:
            return False
        memcpy(records, PyBytes_AS_STRING(frame), len(frame))
        self.used = HEADER_SIZE + len(frame)
        return True
