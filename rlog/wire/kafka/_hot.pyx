# cython: language_level=3
"""The hot part of the Kafka protocol: frames, Produce, Fetch and the partitioner's hash.

Record bytes are never copied here: a decoded request or answer holds views into its frame, an encoded one is a
list of buffers for `transport.writelines` in which the record sections appear as they were handed in.
"""

include "_primitives.pxi"

from rlog.wire.kafka.messages import (
    FetchedPartition,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    PartitionReceipt,
    ProducedPartition,
    ProducePartition,
    ProduceRequest,
    RequestHeader,
)


# --- headers ---
cdef enum:
    API_VERSIONS_KEY = 18
    API_VERSIONS_FLEXIBLE_FROM = 3


def read_request_header(Reader reader):
    """The request header, version 1; version 2 (with tagged fields) for the one flexible request rlog answers.

    client_id stays a plain nullable string in both. Tagged fields exist from ApiVersions 3 on; a later version
    of it, unknown to us, is answered from its header alone, so its tagged fields are left where they are.
    """
    api_key = reader.int16()
    api_version = reader.int16()
    correlation_id = reader.int32()
    client_id = reader.nullable_string()
    if api_key == API_VERSIONS_KEY and api_version == API_VERSIONS_FLEXIBLE_FROM:
        reader.skip_tagged_fields()
    return RequestHeader(api_key, api_version, correlation_id, client_id)


def request_writer(int16_t api_key, int16_t api_version, int32_t correlation_id, str client_id):
    """A Writer that holds the request header, version 1."""
    cdef Writer writer = Writer()
    writer.int16(api_key)
    writer.int16(api_version)
    writer.int32(correlation_id)
    writer.nullable_string(client_id)
    return writer


def response_writer(int32_t correlation_id):
    """A Writer that holds the response header, version 0."""
    cdef Writer writer = Writer()
    writer.int32(correlation_id)
    return writer


def correlation_id(frame):
    """The correlation id that an answer starts with."""
    return Reader(frame).int32()


# --- Produce ---
cdef enum:
    PRODUCE_KEY = 0


def decode_produce_request(Reader reader, int version):
    """Versions 0 to 7. Record sections are views into the frame."""
    cdef Py_ssize_t topic_count, partition_count
    cdef list topics = []
    cdef list partitions
    transactional_id = reader.nullable_string() if version >= 3 else None
    acks = reader.int16()
    timeout_ms = reader.int32()
    topic_count = reader.required_array_length(6)
    for _ in range(topic_count):
        name = reader.string()
        partition_count = reader.required_array_length(8)
        partitions = []
        for _ in range(partition_count):
            index = reader.int32()
            partitions.append(ProducePartition(index, reader.nullable_bytes()))
        topics.append((name, partitions))
    reader.end()
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


def encode_produce_request(int32_t correlation_id, str client_id, int16_t acks, int32_t timeout_ms, topics, *,
                           int16_t version=7):
    """topics: [(name, [(partition, records)])]; records are one buffer each and leave uncopied."""
    cdef Writer writer = request_writer(PRODUCE_KEY, version, correlation_id, client_id)
    if version >= 3:
        writer.nullable_string(None)
    write_produce(writer, acks, timeout_ms, topics)
    return writer.frame()


cdef int write_produce(Writer writer, int16_t acks, int32_t timeout_ms, topics) except -1:
    writer.int16(acks)
    writer.int32(timeout_ms)
    writer.int32(<int32_t>len(topics))
    for name, partitions in topics:
        writer.string(name)
        writer.int32(<int32_t>len(partitions))
        for index, records in partitions:
            writer.int32(index)
            writer.sections((records,))
    return 0


def encode_produce_response(int32_t correlation_id, int version, topics):
    """topics: [(name, [ProducedPartition])]."""
    cdef Writer writer = response_writer(correlation_id)
    writer.int32(<int32_t>len(topics))
    for name, partitions in topics:
        writer.string(name)
        writer.int32(<int32_t>len(partitions))
        for index, error, base_offset, log_append_time_ms, log_start_offset in partitions:
            writer.int32(index)
            writer.int16(error)
            writer.int64(base_offset)
            if version >= 2:
                writer.int64(log_append_time_ms)
            if version >= 5:
                writer.int64(log_start_offset)
    if version >= 1:
        writer.int32(0)  # throttle_time_ms
    return writer.frame()


def decode_produce_response(frame, int version=7):
    """[(name, [ProducedPartition])] of an answer frame."""
    cdef Reader reader = Reader(frame, 4)
    cdef Py_ssize_t topic_count = reader.required_array_length(6)
    cdef Py_ssize_t partition_count
    cdef list topics = []
    cdef list partitions
    for _ in range(topic_count):
        name = reader.string()
        partition_count = reader.required_array_length(14)
        partitions = []
        for _ in range(partition_count):
            index = reader.int32()
            error = reader.int16()
            base_offset = reader.int64()
            log_append_time_ms = reader.int64() if version >= 2 else -1
            log_start_offset = reader.int64() if version >= 5 else -1
            partitions.append(ProducedPartition(index, error, base_offset, log_append_time_ms, log_start_offset))
        topics.append((name, partitions))
    if version >= 1:
        reader.int32()
    reader.end()
    return topics


# --- RlogProduce, rlog's own: Produce 7, answered with what a receipt says ---
cdef enum:
    RLOG_PRODUCE_KEY = 32002
    PRODUCE_BODY_VERSION = 7

# On the wire as acks would say it.
WAITED = {"none": 0, "leader": 1, "majority": -1}
WAITED_NAMES = {number: name for name, number in WAITED.items()}


def decode_rlog_produce_request(Reader reader):
    """The body of Produce 7. Record sections are views into the frame."""
    return decode_produce_request(reader, PRODUCE_BODY_VERSION)


def encode_rlog_produce_request(int32_t correlation_id, str client_id, int16_t acks, int32_t timeout_ms, topics):
    """topics: [(name, [(partition, records)])]; records are one buffer each and leave uncopied."""
    cdef Writer writer = request_writer(RLOG_PRODUCE_KEY, 0, correlation_id, client_id)
    writer.nullable_string(None)
    write_produce(writer, acks, timeout_ms, topics)
    return writer.frame()


def encode_rlog_produce_response(int32_t correlation_id, topics):
    """topics: [(name, [PartitionReceipt])]."""
    cdef Writer writer = response_writer(correlation_id)
    writer.int32(<int32_t>len(topics))
    for name, partitions in topics:
        writer.string(name)
        writer.int32(<int32_t>len(partitions))
        for (
            index, error, base_offset, generation, log_append_time_ms, log_start_offset, waited, flushed_by, message
        ) in partitions:
            writer.int32(index)
            writer.int16(error)
            writer.int64(base_offset)
            writer.int32(generation)
            writer.int64(log_append_time_ms)
            writer.int64(log_start_offset)
            writer.int8(WAITED[waited])
            writer.int32_array(flushed_by)
            writer.nullable_string(message or None)
    return writer.frame()


def decode_rlog_produce_response(frame):
    """[(name, [PartitionReceipt])] of an answer frame."""
    cdef Reader reader = Reader(frame, 4)
    cdef list topics = []
    cdef list partitions
    for _ in range(reader.required_array_length(6)):
        name = reader.string()
        partitions = []
        for _ in range(reader.required_array_length(41)):
            partitions.append(read_receipt(reader))
        topics.append((name, partitions))
    reader.end()
    return topics


cdef object read_receipt(Reader reader):
    index = reader.int32()
    error = reader.int16()
    base_offset = reader.int64()
    generation = reader.int32()
    log_append_time_ms = reader.int64()
    log_start_offset = reader.int64()
    number = reader.int8()
    waited = WAITED_NAMES.get(number)
    if waited is None:
        raise ProtocolError(f"waited is {number} before byte {reader.position}; known are -1, 0 and 1")
    flushed_by = tuple(reader.int32_array())
    return PartitionReceipt(
        index, error, base_offset, generation, log_append_time_ms, log_start_offset, waited, flushed_by,
        reader.nullable_string() or "",
    )


# --- Fetch ---
cdef enum:
    FETCH_KEY = 1


def decode_fetch_request(Reader reader, int version):
    """Versions 4 to 11. Forgotten topics and the rack are read and dropped: there are no fetch sessions here."""
    cdef list topics = []
    cdef Py_ssize_t topic_count
    replica_id = reader.int32()
    max_wait_ms = reader.int32()
    bytes_min = reader.int32()
    bytes_max = reader.int32()
    isolation_level = reader.int8()
    session_id = reader.int32() if version >= 7 else 0
    session_epoch = reader.int32() if version >= 7 else -1
    topic_count = reader.required_array_length(6)
    for _ in range(topic_count):
        name = reader.string()
        topics.append((name, read_fetch_partitions(reader, version)))
    if version >= 7:
        for _ in range(reader.required_array_length(6)):
            reader.string()
            reader.int32_array()
    if version >= 11:
        reader.nullable_string()
    reader.end()
    return FetchRequest(
        max_wait_ms, bytes_min, bytes_max, topics, isolation_level, session_id, session_epoch, replica_id
    )


cdef list read_fetch_partitions(Reader reader, int version):
    cdef list partitions = []
    cdef Py_ssize_t count = reader.required_array_length(16)
    for _ in range(count):
        index = reader.int32()
        generation = reader.int32() if version >= 9 else -1
        fetch_offset = reader.int64()
        if version >= 5:
            reader.int64()  # log_start_offset: of followers only
        partitions.append(FetchPartition(index, fetch_offset, reader.int32(), generation))
    return partitions


def encode_fetch_request(int32_t correlation_id, str client_id, request, *, int16_t version=11):
    """`request` is a FetchRequest."""
    cdef Writer writer = request_writer(FETCH_KEY, version, correlation_id, client_id)
    writer.int32(request.replica_id)
    writer.int32(request.max_wait_ms)
    writer.int32(request.bytes_min)
    writer.int32(request.bytes_max)
    writer.int8(request.isolation_level)
    if version >= 7:
        writer.int32(request.session_id)
        writer.int32(request.session_epoch)
    writer.int32(<int32_t>len(request.topics))
    for name, partitions in request.topics:
        writer.string(name)
        writer.int32(<int32_t>len(partitions))
        for index, fetch_offset, bytes_max, generation in partitions:
            writer.int32(index)
            if version >= 9:
                writer.int32(generation)
            writer.int64(fetch_offset)
            if version >= 5:
                writer.int64(-1)
            writer.int32(bytes_max)
    if version >= 7:
        writer.int32(0)  # no forgotten topics
    if version >= 11:
        writer.string("")  # rack
    return writer.frame()


def encode_fetch_response(int32_t correlation_id, int version, response, int isolation_level=0):
    """`response` is a FetchResponse; its record buffers leave uncopied when they are large.

    Aborted transactions: null to readers of uncommitted records, none to the others (there are no transactions).
    """
    cdef Writer writer = response_writer(correlation_id)
    writer.int32(0)  # throttle_time_ms
    if version >= 7:
        writer.int16(response.error)
        writer.int32(response.session_id)
    writer.int32(<int32_t>len(response.topics))
    for name, partitions in response.topics:
        writer.string(name)
        writer.int32(<int32_t>len(partitions))
        for index, error, hwm, log_start_offset, records, last_stable_offset in partitions:
            writer.int32(index)
            writer.int16(error)
            writer.int64(hwm)
            writer.int64(last_stable_offset)
            if version >= 5:
                writer.int64(log_start_offset)
            writer.int32(0 if isolation_level else -1)
            if version >= 11:
                writer.int32(-1)  # preferred_read_replica
            writer.sections(records)
    return writer.frame()


def decode_fetch_response(frame, int version=11):
    """A FetchResponse; each partition's records are one view into the frame, or none at all."""
    cdef Reader reader = Reader(frame, 4)
    cdef list topics = []
    cdef Py_ssize_t topic_count
    reader.int32()
    error = reader.int16() if version >= 7 else 0
    session_id = reader.int32() if version >= 7 else 0
    topic_count = reader.required_array_length(6)
    for _ in range(topic_count):
        name = reader.string()
        topics.append((name, read_fetched_partitions(reader, version)))
    reader.end()
    return FetchResponse(error, session_id, topics)


cdef list read_fetched_partitions(Reader reader, int version):
    cdef list partitions = []
    cdef Py_ssize_t count = reader.required_array_length(30)
    cdef Py_ssize_t aborted
    for _ in range(count):
        index = reader.int32()
        error = reader.int16()
        hwm = reader.int64()
        last_stable_offset = reader.int64()
        log_start_offset = reader.int64() if version >= 5 else -1
        aborted = reader.array_length(16)
        if aborted > 0:
            reader.take(16 * aborted)
        if version >= 11:
            reader.int32()
        view = reader.nullable_bytes()
        records = () if view is None or len(view) == 0 else (view,)
        partitions.append(FetchedPartition(index, error, hwm, log_start_offset, records, last_stable_offset))
    return partitions


# --- partitioner ---
cdef enum:
    MURMUR2_SEED = 0x9747b28c
    MURMUR2_M = 0x5bd1e995


cdef uint32_t murmur2_of(const uint8_t *data, Py_ssize_t length) noexcept nogil:
    cdef uint32_t m = MURMUR2_M
    cdef uint32_t h = <uint32_t>MURMUR2_SEED ^ <uint32_t>length
    cdef uint32_t k
    cdef Py_ssize_t i = 0
    while length - i >= 4:
        memcpy(&k, data + i, 4)  # little-endian, as the hash is defined
        k *= m
        k ^= k >> 24
        k *= m
        h *= m
        h ^= k
        i += 4
    if length - i == 3:
        h ^= <uint32_t>data[i + 2] << 16
    if length - i >= 2:
        h ^= <uint32_t>data[i + 1] << 8
    if length - i >= 1:
        h ^= data[i]
        h *= m
    h ^= h >> 13
    h *= m
    h ^= h >> 15
    return h


cdef uint32_t hash_of(data) except? 0:
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    cdef uint32_t hashed = murmur2_of(<const uint8_t *>view.buf, view.len)
    PyBuffer_Release(&view)
    return hashed


def murmur2(data):
    """Kafka's key hash, as the signed 32-bit number that Java's client computes."""
    return <int32_t>hash_of(data)


def partition_of(key, int32_t partitions):
    """The partition that Java's default partitioner gives a key. `partitions` is at least 1."""
    if partitions < 1:
        raise ValueError(f"partitions is {partitions}; at least 1 is needed")
    return <int32_t>((hash_of(key) & 0x7fffffff) % <uint32_t>partitions)
