# The records inside a batch, as a consumer decodes them. builder.pxi writes what this file reads.
#
# A record is zig-zag varints around bytes:
#   length | attributes 0 | timestamp delta | offset delta | key size, key | value size, value | header count,
#   then per header: name size, name, value size, value
# A size of -1 is null. `length` counts what follows it.

cdef enum:
    VARINT_SIZE_MAX = 5


cdef struct RecordView:
    int64_t timestamp_delta
    int32_t offset_delta
    int32_t key_size            # -1: null
    int32_t value_size          # -1: null
    int32_t header_count
    const uint8_t* key
    const uint8_t* value
    const uint8_t* headers      # the first header; checked to parse up to `next`
    const uint8_t* next         # the record after this one


cdef inline const uint8_t* take_varlong(
    const uint8_t* data, const uint8_t* end, int64_t* value
) noexcept nogil:
    """Read a zig-zag varint of at most 64 bits; NULL when it does not end before `end` or is longer."""
    cdef uint64_t raw = 0
    cdef int shift = 0
    cdef uint8_t byte
    while data < end and shift < 64:
        byte = data[0]
        data += 1
        if shift == 63 and byte > 1:
            return NULL
        raw |= (<uint64_t> (byte & 0x7F)) << shift
        if byte < 0x80:
            value[0] = <int64_t> (raw >> 1) ^ -<int64_t> (raw & 1)
            return data
        shift += 7
    return NULL


cdef inline const uint8_t* take_varint(
    const uint8_t* data, const uint8_t* end, int32_t* value
) noexcept nogil:
    """As take_varlong, of at most 32 bits and VARINT_SIZE_MAX bytes. `data` NULL stays NULL: calls chain."""
    cdef int64_t wide = 0
    cdef const uint8_t* after
    if data == NULL or data >= end:
        return NULL
    if data[0] < 0x80:
        value[0] = (data[0] >> 1) ^ -(data[0] & 1)
        return data + 1
    after = take_varlong(data, end, &wide)
    if after == NULL or after - data > VARINT_SIZE_MAX or wide != <int32_t> wide:
        return NULL
    value[0] = <int32_t> wide
    return after


cdef inline const uint8_t* take_bytes(
    const uint8_t* data, const uint8_t* end, const uint8_t** start, int32_t* size
) noexcept nogil:
    """Read a size and skip that many bytes; size -1 is null and has none."""
    data = take_varint(data, end, size)
    if data == NULL or size[0] < -1:
        return NULL
    start[0] = data
    if size[0] <= 0:
        return data
    return data + size[0] if size[0] <= end - data else NULL


cdef inline const uint8_t* take_header(
    const uint8_t* data, const uint8_t* end,
    const uint8_t** name, int32_t* name_size, const uint8_t** value, int32_t* value_size,
) noexcept nogil:
    data = take_bytes(data, end, name, name_size)
    if data == NULL or name_size[0] < 0:
        return NULL
    return take_bytes(data, end, value, value_size)


cdef inline bint read_record(const uint8_t* data, const uint8_t* end, RecordView* record) noexcept nogil:
    """Read one record completely, headers included; False when it does not parse exactly."""
    cdef int32_t size = 0
    cdef int32_t index
    cdef const uint8_t* name
    cdef const uint8_t* value
    cdef int32_t name_size = 0
    cdef int32_t value_size = 0
    data = take_varint(data, end, &size)
    if data == NULL or size < RECORD_SIZE_MIN - 1 or size > end - data:
        return False
    end = data + size
    data = take_varlong(data + 1, end, &record.timestamp_delta)     # + 1: attributes, which mean nothing yet
    data = take_varint(data, end, &record.offset_delta)
    if data == NULL:
        return False
    data = take_bytes(data, end, &record.key, &record.key_size)
    if data == NULL:
        return False
    data = take_bytes(data, end, &record.value, &record.value_size)
    data = take_varint(data, end, &record.header_count)
    if data == NULL or record.header_count < 0:
        return False
    record.headers = data
    for index in range(record.header_count):
        data = take_header(data, end, &name, &name_size, &value, &value_size)
        if data == NULL:
            return False
    record.next = end
    return data == end


@cython.final
@cython.freelist(1024)
@cython.no_gc
cdef class Record:
    """One record as a consumer gets it. Immutable; documented in rlog.records."""

    cdef readonly str topic
    cdef readonly int partition
    cdef readonly int generation
    cdef readonly int64_t offset
    cdef readonly int64_t timestamp_ms
    cdef readonly bytes key
    cdef readonly bytes value
    cdef readonly tuple headers

    __match_args__ = ("topic", "partition", "offset", "generation", "timestamp_ms", "key", "value", "headers")

    def __init__(
        self, str topic not None, int partition, int64_t offset, int generation, int64_t timestamp_ms,
        bytes key, bytes value, tuple headers not None=(),
    ):
        for name, content in headers:       # only what cannot form a cycle: a Record is not garbage collected
            if type(name) is not str or not (content is None or type(content) is bytes):
                raise TypeError("headers are (str, bytes or None) pairs")
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.generation = generation
        self.timestamp_ms = timestamp_ms
        self.key = key
        self.value = value
        self.headers = tuple([(name, content) for name, content in headers])

    cdef tuple astuple(self):
        return (
            self.topic, self.partition, self.offset, self.generation, self.timestamp_ms,
            self.key, self.value, self.headers,
        )

    def __eq__(self, other):
        if type(other) is not Record:
            return NotImplemented
        return self.astuple() == (<Record> other).astuple()

    def __hash__(self):
        return hash(self.astuple())

    def __reduce__(self):
        return Record, self.astuple()

    def __repr__(self):
        fields = ", ".join([f"{name}={field!r}" for name, field in zip(self.__match_args__, self.astuple())])
        return f"Record({fields})"


cdef tuple headers_of(const RecordView* view):
    """Header names that are not UTF-8 get replacement characters: a bad name must not stop a consumer."""
    cdef const uint8_t* data = view.headers
    cdef const uint8_t* name = NULL
    cdef const uint8_t* value = NULL
    cdef int32_t name_size = 0
    cdef int32_t value_size = 0
    cdef list headers = []
    for _ in range(view.header_count):
        data = take_header(data, view.next, &name, &name_size, &value, &value_size)
        headers.append((
            (<const char*> name)[:name_size].decode("utf-8", "replace"), bytes_of(value, value_size),
        ))
    return tuple(headers)


cdef inline bytes bytes_of(const uint8_t* data, int32_t size):
    return None if size < 0 else PyBytes_FromStringAndSize(<const char*> data, size)


cdef inline int64_t time_of_record(const RecordView* view, const BatchHeader* header) noexcept nogil:
    if header.attributes & APPEND_TIME_BIT:
        return header.max_timestamp
    # unsigned: any sum of outside numbers is defined
    return <int64_t> (<uint64_t> header.base_timestamp + <uint64_t> view.timestamp_delta)


cdef bytes plain_records(
    const uint8_t* batch, const BatchHeader* header, int64_t decompressed_bytes_max, int64_t position
):
    """The decompressed records of a batch; None when they lie in it uncompressed.

    Raises CorruptBatch, with the batch's `position`, and UnsupportedCodec.
    """
    cdef int codec = batch_codec(header)
    if codec == CODEC_NONE:
        return None
    try:
        return decompress(
            (<const char*> batch + HEADER_SIZE)[:header.size - HEADER_SIZE], codec, decompressed_bytes_max
        )
    except ValueError as error:
        message = f"the records of the batch at byte {position} {error}"
        raise CorruptBatch(message, position=position) from error


@cython.final
@cython.no_gc
cdef class Decoder:
    """What one decode call collects, and the limits it works under."""

    cdef list out
    cdef str topic              # None: bare values are wanted
    cdef int partition
    cdef int64_t next_offset    # what is wanted next; every offset in `out` is below it, and they ascend
    cdef int64_t decompressed_bytes_max
    cdef bint verify
    cdef tuple no_headers

    cdef int decode(self, object data) except -1:
        """Decode all whole batches of `data`."""
        cdef Py_buffer view
        cdef BatchHeader header
        cdef const uint8_t* batch
        cdef int64_t position = 0
        cdef Fault fault
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while position < view.len:
                batch = <const uint8_t*> view.buf + position
                fault = read_header(batch, view.len - position, &header)
                if fault == FAULT_TRUNCATED:
                    break
                if fault == FAULT_NONE:
                    fault = check_stamp(&header)
                if fault == FAULT_NONE and batch_end(&header) > self.next_offset:
                    if self.verify:
                        fault = check_crc(batch, &header)
                    if fault == FAULT_NONE and not header.attributes & CONTROL_BIT:
                        fault = self.take_batch(batch, &header, position)
                    self.next_offset = batch_end(&header)
                if fault != FAULT_NONE:
                    raise corrupt(fault, position)
                position += header.size
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef Fault take_batch(self, const uint8_t* batch, const BatchHeader* header, int64_t position) except *:
        cdef bytes plain = plain_records(batch, header, self.decompressed_bytes_max, position)
        cdef const uint8_t* records = batch + HEADER_SIZE
        if plain is None:
            return self.take_records(records, batch + header.size, header)
        records = <const uint8_t*> PyBytes_AS_STRING(plain)
        return self.take_records(records, records + PyBytes_GET_SIZE(plain), header)

    cdef Fault take_records(
        self, const uint8_t* data, const uint8_t* end, const BatchHeader* header
    ) except *:
        cdef RecordView view
        cdef int32_t last_delta = -1
        cdef int64_t delta_min = 0
        cdef bint values_only = self.topic is None
        cdef list out = self.out
        cdef int32_t index
        if self.next_offset > header.base_offset:
            delta_min = self.next_offset - header.base_offset
        for index in range(header.count):
            if not read_record(data, end, &view):
                return FAULT_RECORDS
            if view.offset_delta <= last_delta or view.offset_delta > header.last_offset_delta:
                return FAULT_RECORDS
            data = view.next
            last_delta = view.offset_delta
            if last_delta < delta_min:
                continue
            if values_only:
                out.append(bytes_of(view.value, view.value_size))
            else:
                out.append(self.record_of(&view, header))
        return FAULT_NONE if data == end else FAULT_RECORDS

    cdef inline Record record_of(self, const RecordView* view, const BatchHeader* header):
        cdef Record record = Record.__new__(Record)
        record.topic = self.topic
        record.partition = self.partition
        record.offset = header.base_offset + view.offset_delta
        record.generation = header.generation
        record.timestamp_ms = time_of_record(view, header)
        record.key = bytes_of(view.key, view.key_size)
        record.value = bytes_of(view.value, view.value_size)
        record.headers = headers_of(view) if view.header_count else self.no_headers
        return record


cdef Decoder decoder_of(
    str topic, int partition, int64_t from_offset, bint verify, int64_t decompressed_bytes_max
):
    cdef Decoder decoder = Decoder.__new__(Decoder)
    decoder.out = []
    decoder.topic = topic
    decoder.partition = partition
    decoder.next_offset = from_offset
    decoder.verify = verify
    decoder.decompressed_bytes_max = decompressed_bytes_max
    decoder.no_headers = ()
    return decoder


def decode_records(
    object data, *, int64_t from_offset=0, bint verify=True, str topic not None="", int partition=0,
    int64_t decompressed_bytes_max=DECOMPRESSED_BYTES_MAX,
):
    """The records at or above `from_offset` of a fetch answer's bytes, control batches skipped."""
    cdef Decoder decoder = decoder_of(topic, partition, from_offset, verify, decompressed_bytes_max)
    decoder.decode(data)
    return decoder.out


def decode_values(
    object data, *, int64_t from_offset=0, bint verify=True,
    int64_t decompressed_bytes_max=DECOMPRESSED_BYTES_MAX,
):
    """As decode_records, the bare values only; and the offset to fetch from next."""
    cdef Decoder decoder = decoder_of(None, 0, from_offset, verify, decompressed_bytes_max)
    decoder.decode(data)
    return decoder.out, decoder.next_offset
