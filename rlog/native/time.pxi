# Looking for a record by its timestamp, in batches that were read and checked before.
#
# A batch whose header says that no record of it is late enough is skipped unopened. Of the others the records are
# read, so that the answer is exact also inside a compressed batch and where timestamps fall; normally the first one
# opened has the record. Headers are the producers' word: one that understates its records hides them, one that
# overstates them costs a look.


def find_time(
    object data, int64_t timestamp_ms, *, int64_t start=0,
    int64_t decompressed_bytes_max=DECOMPRESSED_BYTES_MAX,
):
    """(offset, timestamp) of the first record at or past offset `start` that is not earlier; None: there is none."""
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
            if fault == FAULT_NONE:
                fault = check_replicated(&header)
            if fault != FAULT_NONE:
                raise corrupt(fault, position)
            if batch_end(&header) > start and time_of_batch(batch) >= timestamp_ms:
                found = find_time_in(batch, &header, timestamp_ms, start, decompressed_bytes_max, position)
                if found is not None:
                    return found
            position += header.size
    finally:
        PyBuffer_Release(&view)
    return None


cdef object find_time_in(
    const uint8_t* batch, const BatchHeader* header, int64_t timestamp_ms, int64_t start,
    int64_t decompressed_bytes_max, int64_t position,
):
    """The same in one batch, which is not a control batch. Raises CorruptBatch when its records do not parse."""
    cdef bytes plain
    cdef const uint8_t* data = batch + HEADER_SIZE
    cdef const uint8_t* end = batch + header.size
    cdef RecordView view
    cdef int32_t index
    cdef int32_t last_delta = -1
    if header.attributes & APPEND_TIME_BIT:
        return max(start, header.base_offset), header.max_timestamp
    plain = plain_records(batch, header, decompressed_bytes_max, position)
    if plain is not None:
        data = <const uint8_t*> PyBytes_AS_STRING(plain)
        end = data + PyBytes_GET_SIZE(plain)
    for index in range(header.count):
        if not read_record(data, end, &view) or not last_delta < view.offset_delta <= header.last_offset_delta:
            raise corrupt(FAULT_RECORDS, position)
        data = view.next
        last_delta = view.offset_delta
        if header.base_offset + last_delta >= start and time_of_record(&view, header) >= timestamp_ms:
            return header.base_offset + last_delta, time_of_record(&view, header)
    return None
