# Spans: stamped batches of one generation with dense offsets, in one piece of memory that never changes.
#
# SpanMemory owns the bytes and the table of batch ends; a batch that was built here is taken over as it is. A Span is a window of whole batches on it, so that a
# suffix costs nothing, and an export keeps Span and memory alive. The bytes are written once, by SpanBuilder,
# Span.of_builder or Span.parse, before the first Span on them exists.

cdef enum:
    START_SIZE = 81     # of the whole batch

# The one record of a start-of-generation entry. Key: int16 version 0, int16 type 2 (LEADER_CHANGE). Value:
# KRaft's LeaderChangeMessage version 0 with leader -1 and no voters, which nobody reads.
cdef const uint8_t* START_RECORD = (
    b"\x26\x00\x00\x00" b"\x08\x00\x00\x00\x02" b"\x12\x00\x00\xff\xff\xff\xff\x01\x01\x00" b"\x00"
)


cdef struct BatchEnd:
    int64_t offset      # end offset of the batch (exclusive)
    int64_t position    # byte after the batch


@cython.final
@cython.no_gc
cdef class SpanMemory:
    """`size` bytes of batches at `data`; batch i occupies [ends[i-1].position, ends[i].position)."""

    cdef uint8_t* data
    cdef int64_t size
    cdef int64_t capacity
    cdef BatchEnd* ends
    cdef int64_t count
    cdef int64_t ends_capacity
    cdef bytes owner        # of the bytes; None: they are ours to free

    def __dealloc__(self):
        if self.owner is None:
            free(self.data)
        free(self.ends)

    cdef int reserve(self, int64_t more) except -1:
        """Room for `more` bytes and one more batch end."""
        cdef int64_t capacity
        cdef void* grown
        if self.size + more > self.capacity:
            capacity = max(self.size + more, 2 * self.capacity)
            grown = realloc(self.data, capacity)
            if grown == NULL:
                raise MemoryError(f"no memory for a span of {capacity} bytes")
            self.data = <uint8_t*> grown
            self.capacity = capacity
        if self.count == self.ends_capacity:
            capacity = max(8, 2 * self.ends_capacity)
            grown = realloc(self.ends, capacity * sizeof(BatchEnd))
            if grown == NULL:
                raise MemoryError(f"no memory for a span of {capacity} batches")
            self.ends = <BatchEnd*> grown
            self.ends_capacity = capacity
        return 0

    cdef void shrink(self) noexcept:
        """Give unused memory back: spans are kept, and are accounted by their size."""
        cdef void* shrunk
        if self.capacity - self.size > self.size >> 3:
            shrunk = realloc(self.data, self.size)
            if shrunk != NULL:
                self.data = <uint8_t*> shrunk
                self.capacity = self.size

    cdef inline void extend(self, int64_t end_offset, int64_t size) noexcept nogil:
        """The `size` bytes after `self.size` are a whole batch now. Room was reserved."""
        self.size += size
        self.ends[self.count].offset = end_offset
        self.ends[self.count].position = self.size
        self.count += 1


cdef SpanMemory NO_MEMORY = SpanMemory.__new__(SpanMemory)


@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class Span:
    """Stamped batches of one generation with dense offsets: read-only bytes, never empty, never changed."""

    cdef SpanMemory memory
    cdef int64_t first              # index of the first batch in memory.ends
    cdef int64_t start              # byte in memory at which it starts
    cdef readonly int64_t base_offset
    cdef readonly int64_t end_offset
    cdef readonly int generation

    def __cinit__(self):
        self.memory = NO_MEMORY     # so that even a Span.__new__(Span) has memory to look at: none

    def __init__(self):
        raise TypeError("a Span is made by SpanBuilder.build(), Span.of_builder() or Span.parse()")

    @property
    def size(self):
        return self.memory.size - self.start

    @property
    def count(self):
        return self.memory.count - self.first

    def __len__(self):
        return self.memory.size - self.start

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        cdef int64_t size = self.memory.size - self.start
        PyBuffer_FillInfo(buffer, self, self.memory.data + self.start, size, 1, flags)

    def __repr__(self):
        return (f"Span(offsets [{self.base_offset}, {self.end_offset}), generation={self.generation}, "
                f"size={self.size}, count={self.count})")

    @staticmethod
    def parse(object data):
        """Copy and check the bytes of a span: dense offsets, one generation, exact lengths, every CRC.

        Raises CorruptBatch; its `position` is that of the bad batch. Empty data is refused.
        """
        cdef Py_buffer view
        cdef SpanMemory memory = SpanMemory.__new__(SpanMemory)
        cdef BatchHeader header
        cdef int64_t base_offset = -1
        cdef int64_t end_offset = -1
        cdef int32_t generation = -1
        cdef Fault fault
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            memory.reserve(max(1, view.len))
            memcpy(memory.data, view.buf, view.len)
            # From here on only the copy is read: the caller may change its buffer, never what was checked.
            while memory.size < view.len or memory.count == 0:
                fault = read_header(memory.data + memory.size, view.len - memory.size, &header)
                if fault == FAULT_NONE:
                    fault = check_replicated(&header)
                if fault == FAULT_NONE and memory.count == 0:
                    base_offset = end_offset = header.base_offset
                    generation = header.generation
                if fault == FAULT_NONE and header.base_offset != end_offset:
                    fault = FAULT_DENSE
                if fault == FAULT_NONE and header.generation != generation:
                    fault = FAULT_GENERATION
                if fault == FAULT_NONE:
                    fault = check_crc(memory.data + memory.size, &header)
                if fault != FAULT_NONE:
                    raise corrupt(fault, memory.size)
                memory.reserve(0)
                end_offset = batch_end(&header)
                memory.extend(end_offset, header.size)
        finally:
            PyBuffer_Release(&view)
        return span_of(memory, 0, base_offset, generation)

    @staticmethod
    def of_builder(
        BatchBuilder builder not None, int64_t base_offset, int32_t generation, *, int64_t append_time_ms=-1
    ):
        """End `builder`, and stamp its batch in place: a span of this one batch, without a copy.

        append_time_ms: the time that its records get (LogAppendTime); -1 leaves them their own.

        Raises ValueError as BatchBuilder.build() does, and when offsets are exhausted.
        """
        cdef SpanMemory memory = SpanMemory.__new__(SpanMemory)
        cdef BatchHeader header
        if base_offset < 0 or generation < 0:
            raise ValueError(f"no span starts at offset {base_offset} in generation {generation}")
        if base_offset > INT64_MAX - 1 - builder.count:
            raise ValueError("no offsets are left")
        memory.owner = builder.build()      # nobody else has seen these bytes yet
        memory.data = <uint8_t*> PyBytes_AS_STRING(memory.owner)
        memory.capacity = PyBytes_GET_SIZE(memory.owner)
        memory.reserve(0)
        stamp(memory.data, base_offset, generation)
        if append_time_ms >= 0:
            if read_header(memory.data, memory.capacity, &header) != FAULT_NONE:
                raise InvariantBroken("a batch that was just built does not parse")
            stamp_append_time(memory.data, &header, append_time_ms)
        memory.extend(base_offset + builder.count, memory.capacity)
        return span_of(memory, 0, base_offset, generation)

    cdef int64_t find(self, int64_t offset) except -1:
        """Index in memory.ends of the batch that contains `offset`; memory.count for the end offset."""
        cdef int64_t low = self.first
        cdef int64_t high = self.memory.count
        cdef int64_t middle
        if offset < self.base_offset or offset > self.end_offset:
            raise ValueError(f"offset {offset} is not in {self!r}")
        while low < high:
            middle = (low + high) >> 1
            if self.memory.ends[middle].offset > offset:
                high = middle
            else:
                low = middle + 1
        return low

    cdef inline int64_t position_of(self, int64_t index) noexcept nogil:
        """Byte in memory at which batch `index` starts."""
        return self.memory.ends[index - 1].position if index > 0 else 0

    cdef int64_t reach(self, int64_t index, int64_t end_max, int64_t bytes_max) noexcept nogil:
        """Index after the last batch of a read from batch `index`: within both bounds, but at least one batch
        if `end_max` allows it."""
        cdef int64_t limit = self.memory.size
        cdef int64_t low = index
        cdef int64_t high = self.memory.count
        cdef int64_t middle
        if bytes_max < limit:
            limit = self.position_of(index) + bytes_max
        while low < high:
            middle = (low + high) >> 1
            if self.memory.ends[middle].offset <= end_max and (
                self.memory.ends[middle].position <= limit or middle == index
            ):
                low = middle + 1
            else:
                high = middle
        return low

    def slice(self, int64_t start, end=None, bytes_max=None):
        """Whole batches from the one that contains `start` up to the last that ends at or below `end`.

        At most `bytes_max` bytes, but at least one batch unless the first ends above `end` (or `start` is the
        end offset): then empty. Raises ValueError when `start` lies outside the span.
        """
        cdef int64_t first = self.find(start)
        cdef int64_t last = self.reach(
            first,
            self.end_offset if end is None else end,
            self.memory.size if bytes_max is None else bytes_max,
        )
        view = PyMemoryView_FromObject(self)
        if first == self.first and last == self.memory.count:
            return view
        return view[self.position_of(first) - self.start : self.position_of(last) - self.start]

    def boundary(self, int64_t start, int64_t bytes_max, int64_t end_max):
        """The end offset that slice(start, end_max, bytes_max) reaches; `start` when that is empty."""
        cdef int64_t first = self.find(start)
        cdef int64_t last = self.reach(first, end_max, bytes_max)
        return start if last == first else self.memory.ends[last - 1].offset

    def span_from(self, int64_t start):
        """The part of this span from batch boundary `start` on, on the same memory.

        Raises ValueError when `start` is not the base offset of one of its batches.
        """
        cdef int64_t first = self.find(start)
        if first == self.memory.count or start != (
            self.memory.ends[first - 1].offset if first > self.first else self.base_offset
        ):
            raise ValueError(f"offset {start} is not the start of a batch in {self!r}")
        return span_of(self.memory, first, start, self.generation)

    def producer_batches(self):
        """(producer_id, epoch, base_sequence, last_sequence, base_offset, last_offset, append_time_ms) of each
        batch of an idempotent producer, in order."""
        cdef list batches = []
        cdef BatchHeader header
        cdef int64_t index
        cdef int64_t position = self.start
        for index in range(self.first, self.memory.count):
            if read_header(self.memory.data + position, self.memory.size - position, &header) != FAULT_NONE:
                raise InvariantBroken(f"{self!r} changed in memory")
            if header.producer_id >= 0 and not header.attributes & CONTROL_BIT:
                batches.append((
                    header.producer_id, header.producer_epoch,
                    header.base_sequence, last_sequence_of(&header),
                    header.base_offset, header.base_offset + header.last_offset_delta,
                    append_time_of(&header),
                ))
            position = self.memory.ends[index].position
        return batches


cdef Span span_of(SpanMemory memory, int64_t first, int64_t base_offset, int32_t generation):
    cdef Span span = Span.__new__(Span)
    span.memory = memory
    span.first = first
    span.start = span.position_of(first)
    span.base_offset = base_offset
    span.end_offset = memory.ends[memory.count - 1].offset
    span.generation = generation
    return span


@cython.final
cdef class SpanBuilder:
    """A leader's group buffer of one tick: checked client batches, stamped and copied once.

    It grows with what is added; the caller bounds that (`size`). build() ends it.
    """

    cdef SpanMemory memory
    cdef readonly int64_t base_offset
    cdef readonly int64_t end_offset
    cdef readonly int64_t append_time_ms    # -1: the producers' timestamps stay
    cdef readonly int generation

    def __cinit__(self, int64_t base_offset, int32_t generation, *, int64_t append_time_ms=-1):
        if base_offset < 0 or generation < 0:
            raise ValueError(f"no span starts at offset {base_offset} in generation {generation}")
        if append_time_ms < -1:
            raise ValueError(f"append_time_ms={append_time_ms} is before 1970")
        self.memory = SpanMemory.__new__(SpanMemory)
        self.base_offset = self.end_offset = base_offset
        self.generation = generation
        self.append_time_ms = append_time_ms

    @property
    def size(self):
        return self.open_memory().size

    cdef SpanMemory open_memory(self):
        if self.memory is None:
            raise ValueError("this SpanBuilder has built its span")
        return self.memory

    def add(self, object records, BatchInfo info not None):
        """Copy the batch that `info` describes, from the buffer that check_client_batches() checked or from
        just that batch's bytes.

        Its base offset becomes this span's end offset, its generation this span's; returns the new end
        offset. Raises ValueError when the buffer no longer holds that batch, or offsets are exhausted.
        """
        cdef SpanMemory memory = self.open_memory()
        cdef Py_buffer view
        cdef BatchHeader header
        cdef int64_t position
        cdef uint8_t* copy
        if self.end_offset > INT64_MAX - 1 - info.header.count:
            raise ValueError("no offsets are left")
        PyObject_GetBuffer(records, &view, PyBUF_SIMPLE)
        try:
            position = 0 if view.len == info.header.size else info.position
            if info.header.size < HEADER_SIZE or position > view.len - info.header.size:
                raise ValueError(f"{info!r} lies outside a buffer of {view.len} bytes")
            memory.reserve(info.header.size)
            copy = memory.data + memory.size
            memcpy(copy, <const uint8_t*> view.buf + position, info.header.size)
        finally:
            PyBuffer_Release(&view)
        # Pair assertion: what is about to get an offset is what was checked.
        if read_header(copy, info.header.size, &header) != FAULT_NONE or header.size != info.header.size or (
            header.crc != info.header.crc or header.count != info.header.count
            or header.last_offset_delta != info.header.last_offset_delta
        ):
            raise ValueError(f"the buffer does not hold {info!r}")
        stamp(copy, self.end_offset, self.generation)
        if self.append_time_ms >= 0:
            stamp_append_time(copy, &header, self.append_time_ms)
        self.end_offset += info.header.count
        memory.extend(self.end_offset, info.header.size)
        return self.end_offset

    def add_start(self, int64_t timestamp_ms):
        """Add a start-of-generation entry: a control batch of one record, in KRaft's LEADER_CHANGE form.

        It consumes one offset (SAFETY 37); returns the new end offset.
        """
        cdef SpanMemory memory = self.open_memory()
        cdef uint8_t* batch
        if self.end_offset >= INT64_MAX - 1:
            raise ValueError("no offsets are left")
        memory.reserve(START_SIZE)
        batch = memory.data + memory.size
        memcpy(batch + HEADER_SIZE, START_RECORD, START_SIZE - HEADER_SIZE)
        write_header(batch, START_SIZE, CONTROL_BIT, 1, timestamp_ms, timestamp_ms, -1, -1, -1)
        stamp(batch, self.end_offset, self.generation)
        self.end_offset += 1
        memory.extend(self.end_offset, START_SIZE)
        return self.end_offset

    def build(self):
        """The span of everything added. Raises ValueError when nothing was, or it was built already."""
        cdef SpanMemory memory = self.open_memory()
        if memory.count == 0:
            raise ValueError("a span holds at least one batch")
        self.memory = None
        memory.shrink()
        return span_of(memory, 0, self.base_offset, self.generation)
