# The round of a log whose owner waits for it: nothing is built, and Python is not needed until it is done.

@cython.final
cdef class WriteRound:
    """The job of an ordinary flush round, made once for a segment and run again and again: one span written,
    fdatasync, the watermark written, and synced where the span asks for that (`sync_if_sparse`).

    `load` it, `run` it, look at `error`; as DiskJob, without the cost of building one.
    """

    cdef JobState state
    cdef Operation operations[4]
    cdef Py_buffer buffers[2]
    cdef Vfs vfs
    cdef readonly File segment
    cdef readonly Span span         # the last one loaded
    cdef File watermarks
    cdef bytes slot

    def __cinit__(self, Vfs vfs not None, File segment not None, File watermarks not None, int64_t slot_position):
        cdef Operation* operation
        self.vfs = vfs
        self.segment = segment
        self.watermarks = watermarks
        self.state.table = &vfs.table
        self.state.operations = self.operations
        self.state.operation_count = 4
        self.state.buffers = self.buffers
        self.operations[0].kind = OP_WRITE
        self.operations[0].fd = &segment.fd
        self.operations[0].buffer_count = 1
        self.operations[0].holds_batches = True
        self.operations[1].kind = OP_FDATASYNC
        self.operations[1].fd = &segment.fd
        self.operations[2].kind = OP_WRITE
        self.operations[2].fd = &watermarks.fd
        self.operations[2].offset = slot_position
        self.operations[2].first_buffer = self.operations[2].buffer_count = 1
        self.operations[3].kind = OP_SYNC_IF_SPARSE
        self.operations[3].fd = &watermarks.fd

    def load(self, Span span not None, int64_t position, bytes slot not None):
        """Write `span` at `position` of the segment, then `slot`. Both are kept until the next load."""
        self.span = span
        self.slot = slot
        self.state.error = self.state.next_operation = 0
        self.operations[0].offset = position
        self.operations[0].length = span.memory.size - span.start
        self.buffers[0].buf = span.memory.data + span.start
        self.buffers[0].len = span.memory.size - span.start
        self.operations[2].length = PyBytes_GET_SIZE(slot)
        self.buffers[1].buf = PyBytes_AS_STRING(slot)
        self.buffers[1].len = PyBytes_GET_SIZE(slot)

    def run(self):
        """Execute it, on this thread, without the GIL."""
        with nogil:
            while _job_step(&self.state):
                pass
        if self.vfs.bug is not None:
            bug, self.vfs.bug = self.vfs.bug, None
            raise bug

    @property
    def error(self):
        return self.state.error

    @property
    def error_operation(self):
        """What failed, in words; empty when nothing did."""
        if self.state.error == 0:
            return ""
        file = self.segment if self.state.next_operation < 2 else self.watermarks
        return f"{_OPERATION_NAMES[self.operations[self.state.next_operation].kind]} {file.path}"

    @property
    def finished(self):
        return self.state.error != 0 or self.state.next_operation == self.state.operation_count
