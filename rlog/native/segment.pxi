# Segment files, natively: the sparse index, the walk over batches read from disk, and recovery's evidence.
#
# A segment is a dense run of stamped batches from byte 0 of a preallocated file; the rest is zero filler.

cdef enum:
    ENTRY_SIZE = 24     # of an index entry in a file


cdef struct IndexEntry:
    int64_t offset
    int64_t position
    int64_t max_timestamp   # of the records from here up to the next entry; -1: none has one


@cython.final
cdef class SegmentIndex:
    """Where batches start in one segment, at least `interval_bytes` apart, and how late the records from each such
    place up to the next are.

    So a search by time skips whole intervals, whatever the order of the timestamps is and wherever it starts; a
    running maximum would say nothing behind one record that is too late. Control batches have no time.
    """

    cdef IndexEntry* entries
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity
    cdef readonly int64_t interval_bytes
    cdef int64_t next_position      # the first batch at or past it gets an entry
    cdef readonly int64_t max_timestamp_ms

    def __cinit__(self, int64_t interval_bytes=4096):
        if interval_bytes < 1:
            raise ValueError("interval_bytes must be at least 1")
        self.interval_bytes = interval_bytes
        self.max_timestamp_ms = -1

    def __dealloc__(self):
        free(self.entries)

    def __len__(self):
        return self.count

    cdef int _enter(self, int64_t offset, int64_t position) except -1:
        """A new entry, without a time yet."""
        cdef void* grown
        cdef Py_ssize_t capacity
        if self.count == self.capacity:
            capacity = max(16, 2 * self.capacity)
            grown = realloc(self.entries, capacity * sizeof(IndexEntry))
            if grown == NULL:
                raise MemoryError()
            self.entries = <IndexEntry*>grown
            self.capacity = capacity
        self.entries[self.count].offset = offset
        self.entries[self.count].position = position
        self.entries[self.count].max_timestamp = -1
        self.count += 1
        self.next_position = position + self.interval_bytes
        return 0

    cdef int _note(self, int64_t offset, int64_t position, int64_t max_timestamp) except -1:
        """Note one batch: an entry of its own if it is due, and its time in the entry that covers it."""
        if position >= self.next_position:
            self._enter(offset, position)
        if max_timestamp > self.entries[self.count - 1].max_timestamp:
            self.entries[self.count - 1].max_timestamp = max_timestamp
            self.max_timestamp_ms = max(self.max_timestamp_ms, max_timestamp)
        return 0

    def add(self, Span span not None, int64_t position):
        """Note the batches of `span`, which lies at `position` of the segment, after all that is noted."""
        cdef SpanMemory memory = span.memory
        cdef int64_t offset = span.base_offset, at = span.start, i
        for i in range(span.first, memory.count):
            self._note(offset, position + at - span.start, time_of_batch(memory.data + at))
            offset = memory.ends[i].offset
            at = memory.ends[i].position

    cdef Py_ssize_t _find(self, int64_t offset) noexcept nogil:
        """How many entries have an offset at or below `offset`."""
        cdef Py_ssize_t low = 0, high = self.count, middle
        while low < high:
            middle = (low + high) >> 1
            if self.entries[middle].offset <= offset:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, int64_t offset):
        """(offset, position) of the last noted batch that starts at or below `offset`; None when none does."""
        cdef Py_ssize_t found = self._find(offset) - 1
        if found < 0:
            return None
        return self.entries[found].offset, self.entries[found].position

    def find_time(self, int64_t timestamp_ms, int64_t start):
        """Where to look for a record at or past offset `start` whose timestamp is `timestamp_ms` or later.

        (offset, position, next offset, next position) of the first interval that has one by its batches' headers;
        the latter two are None in the last interval, which ends where the segment does. None: there is no record.
        """
        cdef Py_ssize_t found = max(self._find(start) - 1, 0)
        cdef IndexEntry* entry
        while found < self.count and self.entries[found].max_timestamp < timestamp_ms:
            found += 1
        if found == self.count:
            return None
        entry = &self.entries[found]
        if found + 1 == self.count:
            return entry.offset, entry.position, None, None
        return entry.offset, entry.position, entry[1].offset, entry[1].position

    cdef Py_ssize_t _kept(self, int64_t offset) noexcept nogil:
        """How many entries a cut at `offset` leaves as they are: not the last below it, which may cover more."""
        cdef Py_ssize_t below = self._find(offset - 1)
        cdef bint is_whole = below < self.count and self.entries[below].offset == offset
        return below if is_whole or below == 0 else below - 1

    def seam(self, int64_t offset):
        """(offset, position) from which the batches below `offset` must be told anew after cut(offset).

        None when nothing has to.
        """
        cdef Py_ssize_t kept = self._kept(offset)
        if kept == self.count or self.entries[kept].offset >= offset:
            return None
        return self.entries[kept].offset, self.entries[kept].position

    def cut(self, int64_t offset):
        """Forget the batches that start at or past seam(offset), or else at or past `offset`."""
        cdef Py_ssize_t i
        self.count = self._kept(offset)
        self.next_position = self.entries[self.count - 1].position + self.interval_bytes if self.count else 0
        self.max_timestamp_ms = -1
        for i in range(self.count):
            self.max_timestamp_ms = max(self.max_timestamp_ms, self.entries[i].max_timestamp)

    def to_bytes(self):
        """The entries as triples of big-endian 64-bit numbers: offset, position, largest timestamp."""
        cdef bytes data = PyBytes_FromStringAndSize(NULL, self.count * ENTRY_SIZE)
        cdef uint8_t* into = <uint8_t*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t i
        for i in range(self.count):
            store_64(into + ENTRY_SIZE * i, <uint64_t>self.entries[i].offset)
            store_64(into + ENTRY_SIZE * i + 8, <uint64_t>self.entries[i].position)
            store_64(into + ENTRY_SIZE * i + 16, <uint64_t>self.entries[i].max_timestamp)
        return data

    @staticmethod
    def from_bytes(const uint8_t[::1] data not None, int64_t interval_bytes=4096):
        """The inverse of to_bytes(). ValueError when the entries are not rising."""
        cdef SegmentIndex index = SegmentIndex(interval_bytes)
        cdef Py_ssize_t i
        cdef int64_t offset, position, max_timestamp, last_offset = -1, last_position = -1
        if data.shape[0] % ENTRY_SIZE:
            raise ValueError("not a whole number of entries")
        for i in range(data.shape[0] // ENTRY_SIZE):
            offset = <int64_t>load_64(&data[ENTRY_SIZE * i])
            position = <int64_t>load_64(&data[ENTRY_SIZE * i + 8])
            max_timestamp = <int64_t>load_64(&data[ENTRY_SIZE * i + 16])
            if offset <= last_offset or position <= last_position:
                raise ValueError("the entries do not rise")
            index._enter(offset, position)
            index._note(offset, position, max_timestamp)
            last_offset = offset
            last_position = position
        return index


def scan_batches(const uint8_t[::1] data not None, int64_t position, int64_t offset, int32_t generation,
                 int64_t offset_end, SegmentIndex index, list producers):
    """Walk over batches of one generation from (position, offset), checking all that can be checked.

    Stops at the first batch that is not good, at a batch boundary equal to `offset_end`, or where the data
    ends. Returns (position, offset) reached. Good batches are noted in `index`, and those of idempotent
    producers are appended to `producers` (as Span.producer_batches() lists them), where given.
    """
    cdef BatchHeader header
    cdef const uint8_t* at
    while position < data.shape[0] and offset < offset_end:
        at = &data[position]
        if (
            read_header(at, data.shape[0] - position, &header) != FAULT_NONE
            or check_replicated(&header) != FAULT_NONE
            or header.base_offset != offset
            or header.generation != generation
            or batch_end(&header) > offset_end
            or check_crc(at, &header) != FAULT_NONE
        ):
            break
        if index is not None:
            index._note(offset, position, time_of_batch(at))
        if producers is not None and header.producer_id >= 0 and not header.attributes & CONTROL_BIT:
            producers.append((
                header.producer_id, header.producer_epoch, header.base_sequence, last_sequence_of(&header),
                header.base_offset, batch_end(&header) - 1, append_time_of(&header),
            ))
        offset = batch_end(&header)
        position += header.size
    return position, offset


def find_batches(const uint8_t[::1] data not None, int64_t offset, int64_t start, int32_t generation,
                 int64_t bytes_max, int64_t end_max):
    """Whole batches of a read from disk: (first, last, end_offset, missing).

    `data` begins at a batch with base offset `offset`. The batches from the one that contains `start` up to
    the last that ends at or below `end_max` within `bytes_max` (but at least one) lie in data[first:last] and
    end at `end_offset`; each was checked to be dense, of `generation`, and to match its CRC (SAFETY 55).
    `missing`: bytes of `data` needed when not even the first of them is whole; 0 otherwise.
    Raises CorruptBatch with the position of a bad batch.
    """
    cdef BatchHeader header
    cdef Fault fault
    cdef int64_t position = 0, first = -1, last = 0, end_offset = start
    while position < data.shape[0] and offset < end_max:
        fault = read_header(&data[position], data.shape[0] - position, &header)
        if fault == FAULT_TRUNCATED and first < 0 and data.shape[0] - position >= LENGTH_END:
            return 0, 0, start, position + LENGTH_END + load_32(&data[position] + AT_LENGTH)
        if fault == FAULT_TRUNCATED:
            break
        if fault == FAULT_NONE:
            fault = check_replicated(&header)
        if fault == FAULT_NONE and header.base_offset != offset:
            fault = FAULT_DENSE
        if fault != FAULT_NONE:
            raise corrupt(fault, position)
        offset = batch_end(&header)
        if offset > start:
            if offset > end_max or (first >= 0 and position + header.size - first > bytes_max):
                break
            fault = FAULT_GENERATION if header.generation != generation else check_crc(&data[position], &header)
            if fault != FAULT_NONE:
                raise corrupt(fault, position)
            first = position if first < 0 else first
            last = position + header.size
            end_offset = offset
        position += header.size
    if first < 0:
        return 0, 0, start, position + LENGTH_END if offset < end_max else 0
    return first, last, end_offset, 0


cdef inline bint _is_zero(const uint8_t* data, int64_t size) noexcept nogil:
    return size <= 0 or (data[0] == 0 and memcmp(data, data + 1, size - 1) == 0)


cdef bint _later_batch(const uint8_t[::1] data, int64_t position, int64_t offset) except -1:
    """Whether a good batch of this log, of an offset past `offset`, lies anywhere at or past `position`."""
    cdef BatchHeader header
    cdef const uint8_t* found
    cdef int64_t end = data.shape[0]
    while position + HEADER_SIZE <= end:
        # Only a byte equal to MAGIC can be the magic of a batch: zero filler is skipped at memory speed.
        found = <const uint8_t*>memchr(&data[position + AT_MAGIC], MAGIC, end - position - AT_MAGIC)
        if found == NULL:
            return False
        position = found - &data[0] - AT_MAGIC
        if (
            read_header(&data[position], end - position, &header) == FAULT_NONE
            and check_replicated(&header) == FAULT_NONE
            and header.base_offset > offset
            and check_crc(&data[position], &header) == FAULT_NONE
        ):
            return True
        position += 1
    return False


cdef bint _intact_at_some_length(const uint8_t[::1] data, int64_t position) except -1:
    """Whether the records of the batch at `position` match its CRC at any length: then its header is rotten."""
    cdef uint32_t table[256]
    cdef uint32_t value, stated
    cdef int64_t end
    cdef int i, bit
    if position + HEADER_SIZE > data.shape[0]:
        return False
    for i in range(256):
        value = i
        for bit in range(8):
            value = (value >> 1) ^ (<uint32_t>0x82F63B78 if value & 1 else 0)
        table[i] = value
    stated = ~load_32(&data[position + AT_CRC])
    value = <uint32_t>0xFFFFFFFF
    with nogil:
        for end in range(position + AT_ATTRIBUTES, data.shape[0]):
            value = table[(value ^ data[end]) & 0xFF] ^ (value >> 8)
            if value == stated and end + 1 >= position + HEADER_SIZE:
                return True
    return False


cdef int _header_bits(int64_t offset, int64_t length) noexcept nogil:
    """How many bits are certainly set in the first `length` bytes of the batch at `offset`: those of its base
    offset, one of its batch length, one of its magic."""
    cdef uint64_t value = <uint64_t>offset >> (8 * (8 - length)) if length < 8 else <uint64_t>offset
    cdef int bits = (length >= AT_GENERATION) + (length > AT_MAGIC)
    while value:
        value &= value - 1
        bits += 1
    return bits


def judge_tail(const uint8_t[::1] data not None, int64_t position, int64_t offset, int64_t round_bytes_max):
    """What the bytes of an active segment say about its end at (position, offset), where no good batch starts.

    "end": only zero filler follows. "later": a good batch of a later flush round follows, so whatever was
    here had been flushed, and is rot. "torn": a whole sector was never written. "unknown": none of these is
    proven (SAFETY 19).

    Zeros prove a torn write only where a flipped bit could not have made them. In the sector where the batch
    starts, two bits of its header must be missing. In each later sector, the round has put enough non-zero
    bytes, or else its watermark was made durable first (`sync_if_sparse`) and lies above it.
    """
    cdef int64_t size = data.shape[0], sector, end, length
    if _is_zero(&data[0] + position, size - position):
        return "end"
    # A round is at most round_bytes_max long, or a single batch: what lies further on is of a later round.
    if _later_batch(data, position + round_bytes_max, offset):
        return "later"
    end = min(size, (position // SECTOR_BYTES + 1) * SECTOR_BYTES)
    if _is_zero(&data[position], end - position) and _header_bits(offset, end - position) >= 2:
        return "torn"
    length = HEADER_SIZE
    if position + LENGTH_END <= size:
        length = max(length, <int64_t>load_32(&data[position + AT_LENGTH]) + LENGTH_END)
    if length > size - position:
        length = HEADER_SIZE            # not a length that was ever written here
    # A flip in the length may stretch the extent over filler: then the batch is whole at its true length.
    if _intact_at_some_length(data, position):
        return "unknown"
    sector = end
    while sector < min(size, position + length):
        if _is_zero(&data[sector], min(<int64_t>SECTOR_BYTES, size - sector)):
            return "torn"
        sector += SECTOR_BYTES
    return "unknown"
