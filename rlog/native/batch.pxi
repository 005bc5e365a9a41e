# The batch header: reading, judging and stamping it. A RecordBatch (Kafka message format v2) is 61 bytes of
# header and then its records, which this file never looks at. rlog/log/format.py is the same in plain Python.
#
#   0             8        12           16      17    21           23                  27
#   | base offset | length | generation | magic | crc | attributes | last offset delta |
#   27               35              43            51               53              57      61
#   | base timestamp | max timestamp | producer id | producer epoch | base sequence | count | records
#
# `length` counts the bytes after itself (from 12). The CRC covers 21..end: a stamp of base offset and generation
# does not change it.

from crc32c import crc32c as _crc32c

cdef extern from "<endian.h>" nogil:
    uint16_t be16toh(uint16_t)
    uint32_t be32toh(uint32_t)
    uint64_t be64toh(uint64_t)
    uint16_t htobe16(uint16_t)
    uint32_t htobe32(uint32_t)
    uint64_t htobe64(uint64_t)

cdef extern from "Python.h":
    int PyBUF_READ

cdef enum:
    AT_LENGTH = 8
    AT_GENERATION = 12
    AT_MAGIC = 16
    AT_CRC = 17
    AT_ATTRIBUTES = 21
    AT_LAST_OFFSET_DELTA = 23
    AT_BASE_TIMESTAMP = 27
    AT_MAX_TIMESTAMP = 35
    AT_PRODUCER_ID = 43
    AT_PRODUCER_EPOCH = 51
    AT_BASE_SEQUENCE = 53
    AT_COUNT = 57
    HEADER_SIZE = 61
    LENGTH_END = 12         # `length` counts from here
    RECORD_SIZE_MIN = 7     # length, attributes, timestamp, offset, key, value, headers: a byte each
    MAGIC = 2

cdef enum:
    CODEC_NONE = 0
    CODEC_GZIP = 1
    CODEC_SNAPPY = 2
    CODEC_LZ4 = 3
    CODEC_ZSTD = 4
    CODEC_MASK = 0x07
    APPEND_TIME_BIT = 0x08
    TRANSACTIONAL_BIT = 0x10
    CONTROL_BIT = 0x20
    ATTRIBUTES_KNOWN = 0x7F     # and 0x40, the delete horizon that Kafka sets when it compacts

CODEC_NAMES = ("none", "gzip", "snappy", "lz4", "zstd")

cdef enum Fault:
    FAULT_NONE = 0
    FAULT_TRUNCATED
    FAULT_LENGTH
    FAULT_MAGIC
    FAULT_ATTRIBUTES
    FAULT_COUNT
    FAULT_OFFSETS
    FAULT_CONTROL
    FAULT_TRANSACTIONAL
    FAULT_TIMESTAMP_TYPE
    FAULT_PRODUCER
    FAULT_GENERATION
    FAULT_DENSE
    FAULT_CRC
    FAULT_RECORDS

FAULT_TEXTS = {
    FAULT_TRUNCATED: "ends before its length says",
    FAULT_LENGTH: "has an impossible length",
    FAULT_MAGIC: "is not of message format v2",
    FAULT_ATTRIBUTES: "has unknown attributes or an unknown codec",
    FAULT_COUNT: "has a record count that does not match its offsets or size",
    FAULT_OFFSETS: "has a negative or overflowing offset",
    FAULT_CONTROL: "is a control batch, which clients may not send",
    FAULT_TRANSACTIONAL: "is transactional, which is not supported",
    FAULT_TIMESTAMP_TYPE: "claims log append time, which only a server may set",
    FAULT_PRODUCER: "has an impossible producer id, epoch or sequence",
    FAULT_GENERATION: "is of another generation",
    FAULT_DENSE: "does not start where the batch before it ends",
    FAULT_CRC: "does not match its checksum",
    FAULT_RECORDS: "holds records that do not parse",
}


cdef struct BatchHeader:
    int64_t base_offset
    int64_t size                # whole batch in bytes; 61 <= size and within the buffer it was read from
    int32_t generation
    uint32_t crc
    int32_t attributes
    int32_t last_offset_delta   # >= 0
    int64_t base_timestamp
    int64_t max_timestamp
    int64_t producer_id
    int32_t producer_epoch
    int32_t base_sequence
    int32_t count               # 0 <= count <= last_offset_delta + 1; equal to it unless compacted


cdef inline uint16_t load_16(const uint8_t* data) noexcept nogil:
    cdef uint16_t raw
    memcpy(&raw, data, 2)
    return be16toh(raw)


cdef inline uint32_t load_32(const uint8_t* data) noexcept nogil:
    cdef uint32_t raw
    memcpy(&raw, data, 4)
    return be32toh(raw)


cdef inline uint64_t load_64(const uint8_t* data) noexcept nogil:
    cdef uint64_t raw
    memcpy(&raw, data, 8)
    return be64toh(raw)


cdef inline void store_16(uint8_t* data, uint16_t value) noexcept nogil:
    value = htobe16(value)
    memcpy(data, &value, 2)


cdef inline void store_32(uint8_t* data, uint32_t value) noexcept nogil:
    value = htobe32(value)
    memcpy(data, &value, 4)


cdef inline void store_64(uint8_t* data, uint64_t value) noexcept nogil:
    value = htobe64(value)
    memcpy(data, &value, 8)


cdef inline int64_t batch_end(const BatchHeader* header) noexcept nogil:
    return header.base_offset + header.last_offset_delta + 1


cdef inline int batch_codec(const BatchHeader* header) noexcept nogil:
    return header.attributes & CODEC_MASK


cdef inline Fault read_header(const uint8_t* data, int64_t available, BatchHeader* header) noexcept nogil:
    """Read one header and check what holds for every batch ever written, by whomever.

    FAULT_TRUNCATED means that a longer buffer may hold a good batch; every other fault is final. The CRC is
    not checked here.
    """
    cdef int64_t length
    if available < LENGTH_END:
        return FAULT_TRUNCATED
    length = <int32_t> load_32(data + AT_LENGTH)
    if length < HEADER_SIZE - LENGTH_END:
        return FAULT_LENGTH
    if length > available - LENGTH_END:
        return FAULT_TRUNCATED
    if data[AT_MAGIC] != MAGIC:
        return FAULT_MAGIC
    header.size = length + LENGTH_END
    header.base_offset = <int64_t> load_64(data)
    header.generation = <int32_t> load_32(data + AT_GENERATION)
    header.crc = load_32(data + AT_CRC)
    header.attributes = load_16(data + AT_ATTRIBUTES)
    header.last_offset_delta = <int32_t> load_32(data + AT_LAST_OFFSET_DELTA)
    header.base_timestamp = <int64_t> load_64(data + AT_BASE_TIMESTAMP)
    header.max_timestamp = <int64_t> load_64(data + AT_MAX_TIMESTAMP)
    header.producer_id = <int64_t> load_64(data + AT_PRODUCER_ID)
    header.producer_epoch = <int16_t> load_16(data + AT_PRODUCER_EPOCH)
    header.base_sequence = <int32_t> load_32(data + AT_BASE_SEQUENCE)
    header.count = <int32_t> load_32(data + AT_COUNT)
    if header.attributes & ~ATTRIBUTES_KNOWN or batch_codec(header) > CODEC_ZSTD:
        return FAULT_ATTRIBUTES
    if header.count < 0 or header.last_offset_delta < 0 or header.count - 1 > header.last_offset_delta:
        return FAULT_COUNT
    if batch_codec(header) == CODEC_NONE and header.count > (header.size - HEADER_SIZE) // RECORD_SIZE_MIN:
        return FAULT_COUNT
    return FAULT_NONE


cdef inline Fault check_stamp(const BatchHeader* header) noexcept nogil:
    """A batch of a log has an offset, and the offset after it exists."""
    if header.base_offset < 0 or header.base_offset > INT64_MAX - 1 - header.last_offset_delta:
        return FAULT_OFFSETS
    return FAULT_NONE


cdef inline Fault check_replicated(const BatchHeader* header) noexcept nogil:
    """What holds for every batch that a leader of rlog stamped, on the way to a follower or on disk."""
    if header.count != header.last_offset_delta + <int64_t> 1:
        return FAULT_COUNT
    if header.generation < 0:
        return FAULT_GENERATION
    return check_stamp(header)


cdef inline Fault check_client(const BatchHeader* header) noexcept nogil:
    """What a client may send (SAFETY 54). Base offset and generation mean nothing yet: they get stamped."""
    if header.attributes & CONTROL_BIT:
        return FAULT_CONTROL
    if header.attributes & TRANSACTIONAL_BIT:
        return FAULT_TRANSACTIONAL
    if header.attributes & APPEND_TIME_BIT:
        return FAULT_TIMESTAMP_TYPE
    if header.attributes & ~CODEC_MASK:
        return FAULT_ATTRIBUTES
    if header.count != header.last_offset_delta + <int64_t> 1:
        return FAULT_COUNT
    if header.producer_id < -1:
        return FAULT_PRODUCER
    if header.producer_id >= 0 and (header.producer_epoch < 0 or header.base_sequence < 0):
        return FAULT_PRODUCER
    return FAULT_NONE


cdef inline void stamp(uint8_t* data, int64_t base_offset, int32_t generation) noexcept nogil:
    """Both lie outside the CRC, so the producer's checksum stays good."""
    store_64(data, <uint64_t> base_offset)
    store_32(data + AT_GENERATION, <uint32_t> generation)


cdef int stamp_append_time(uint8_t* data, BatchHeader* header, int64_t timestamp_ms) except -1:
    """Give all records of a whole batch a leader's time. It lies inside the CRC, which is made anew.

    Base timestamp and records stay as the producer wrote them (Kafka: LogAppendTime, KIP-32).
    """
    header.attributes |= APPEND_TIME_BIT
    header.max_timestamp = timestamp_ms
    store_16(data + AT_ATTRIBUTES, <uint16_t> header.attributes)
    store_64(data + AT_MAX_TIMESTAMP, <uint64_t> timestamp_ms)
    header.crc = crc_of(data + AT_ATTRIBUTES, header.size - AT_ATTRIBUTES)
    store_32(data + AT_CRC, header.crc)
    return 0


cdef inline int64_t append_time_of(const BatchHeader* header) noexcept nogil:
    """When a leader appended the batch, by that leader's clock; -1 where the timestamps are the producer's."""
    return header.max_timestamp if header.attributes & APPEND_TIME_BIT else -1


cdef inline int64_t time_of_batch(const uint8_t* batch) noexcept nogil:
    """The largest timestamp of a whole batch's records, by its header; -1 of a control batch."""
    if load_16(batch + AT_ATTRIBUTES) & CONTROL_BIT:
        return -1
    return <int64_t> load_64(batch + AT_MAX_TIMESTAMP)


cdef inline int64_t last_sequence_of(const BatchHeader* header) noexcept nogil:
    """Sequences wrap from 2^31 - 1 to 0."""
    return (<int64_t> header.base_sequence + header.last_offset_delta) & INT32_MAX


cdef uint32_t crc_of(const uint8_t* data, int64_t size) except? 0:
    return _crc32c(PyMemoryView_FromMemory(<char*> data, size, PyBUF_READ))


cdef inline Fault check_crc(const uint8_t* data, const BatchHeader* header) except *:
    """The CRC of the batch at `data` against the one its header states."""
    if crc_of(data + AT_ATTRIBUTES, header.size - AT_ATTRIBUTES) != header.crc:
        return FAULT_CRC
    return FAULT_NONE


cdef int write_header(
    uint8_t* data, int64_t size, int attributes, int32_t count, int64_t base_timestamp, int64_t max_timestamp,
    int64_t producer_id, int producer_epoch, int32_t base_sequence,
) except -1:
    """Write the header of a batch whose `size - 61` bytes of records are in place already, CRC included.

    Base offset 0 and generation -1 say that no leader has stamped it yet.
    """
    stamp(data, 0, -1)
    store_32(data + AT_LENGTH, <uint32_t> (size - LENGTH_END))
    data[AT_MAGIC] = MAGIC
    store_16(data + AT_ATTRIBUTES, <uint16_t> attributes)
    store_32(data + AT_LAST_OFFSET_DELTA, <uint32_t> (count - 1))
    store_64(data + AT_BASE_TIMESTAMP, <uint64_t> base_timestamp)
    store_64(data + AT_MAX_TIMESTAMP, <uint64_t> max_timestamp)
    store_64(data + AT_PRODUCER_ID, <uint64_t> producer_id)
    store_16(data + AT_PRODUCER_EPOCH, <uint16_t> producer_epoch)
    store_32(data + AT_BASE_SEQUENCE, <uint32_t> base_sequence)
    store_32(data + AT_COUNT, <uint32_t> count)
    store_32(data + AT_CRC, crc_of(data + AT_ATTRIBUTES, size - AT_ATTRIBUTES))
    return 0


cdef object corrupt(Fault fault, int64_t position):
    kind = InvalidTimestamp if fault == FAULT_TIMESTAMP_TYPE else CorruptBatch
    return kind(f"the batch at byte {position} {FAULT_TEXTS[fault]}", position=position)


@cython.final
@cython.freelist(256)
@cython.no_gc
cdef class BatchInfo:
    """What the header of one checked batch says, and where the batch lies in the buffer it was read from."""

    cdef BatchHeader header
    cdef readonly int64_t position

    def __init__(self):
        raise TypeError("BatchInfo is made by check_client_batches() and iterate_batches()")

    @property
    def size(self): return self.header.size

    @property
    def base_offset(self): return self.header.base_offset

    @property
    def last_offset(self): return self.header.base_offset + self.header.last_offset_delta

    @property
    def generation(self): return self.header.generation

    @property
    def attributes(self): return self.header.attributes

    @property
    def base_timestamp(self): return self.header.base_timestamp

    @property
    def max_timestamp(self): return self.header.max_timestamp

    @property
    def producer_id(self): return self.header.producer_id

    @property
    def producer_epoch(self): return self.header.producer_epoch

    @property
    def base_sequence(self): return self.header.base_sequence

    @property
    def last_sequence(self): return last_sequence_of(&self.header)

    @property
    def count(self): return self.header.count

    @property
    def is_control(self): return (self.header.attributes & CONTROL_BIT) != 0

    @property
    def codec(self): return batch_codec(&self.header)

    def __repr__(self):
        return (f"BatchInfo(position={self.position}, size={self.size}, base_offset={self.base_offset}, "
                f"count={self.count}, generation={self.generation}, codec={CODEC_NAMES[self.codec]!r}, "
                f"producer_id={self.producer_id})")


cdef inline BatchInfo info_of(const BatchHeader* header, int64_t position):
    cdef BatchInfo info = BatchInfo.__new__(BatchInfo)
    info.header = header[0]
    info.position = position
    return info


def check_client_batches(object records, *, int64_t batch_bytes_max):
    """Check the batches of one produce request: structure (SAFETY 54), CRC, and that nothing follows.

    Raises CorruptBatch: BatchTooLarge for one of more than `batch_bytes_max` bytes, InvalidTimestamp for one
    that claims a leader's timestamps.
    """
    cdef Py_buffer view
    cdef BatchHeader header
    cdef int64_t position = 0
    cdef Fault fault
    cdef list infos = []
    PyObject_GetBuffer(records, &view, PyBUF_SIMPLE)
    try:
        while position < view.len or not infos:
            fault = read_header(<const uint8_t*> view.buf + position, view.len - position, &header)
            if fault == FAULT_NONE:
                fault = check_client(&header)
            if fault == FAULT_NONE and header.size > batch_bytes_max:
                raise BatchTooLarge(
                    f"the batch at byte {position} has {header.size} bytes; at most {batch_bytes_max} may be",
                    size_bytes=header.size, bytes_max=batch_bytes_max, position=position,
                )
            if fault == FAULT_NONE:
                fault = check_crc(<const uint8_t*> view.buf + position, &header)
            if fault != FAULT_NONE:
                raise corrupt(fault, position)
            infos.append(info_of(&header, position))
            position += header.size
    finally:
        PyBuffer_Release(&view)
    return infos


def iterate_batches(object data, *, bint verify=True):
    """The batches of a dense run of a log's bytes, generations never falling; empty data has none.

    `verify` checks the CRCs too. Raises CorruptBatch.
    """
    cdef Py_buffer view
    cdef BatchHeader header
    cdef int64_t position = 0
    cdef int64_t expected_offset = -1
    cdef int32_t generation = 0
    cdef Fault fault
    cdef list infos = []
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        while position < view.len:
            fault = read_header(<const uint8_t*> view.buf + position, view.len - position, &header)
            if fault == FAULT_NONE:
                fault = check_replicated(&header)
            if fault == FAULT_NONE and header.generation < generation:
                fault = FAULT_GENERATION
            if fault == FAULT_NONE and expected_offset >= 0 and header.base_offset != expected_offset:
                fault = FAULT_DENSE
            if fault == FAULT_NONE and verify:
                fault = check_crc(<const uint8_t*> view.buf + position, &header)
            if fault != FAULT_NONE:
                raise corrupt(fault, position)
            infos.append(info_of(&header, position))
            generation = header.generation
            expected_offset = batch_end(&header)
            position += header.size
    finally:
        PyBuffer_Release(&view)
    return infos
