# Disk jobs and the threads that run them.
#
# A DiskJob is an ordered list of file operations, built on the loop and executed elsewhere: by a DiskPool
# thread, without the GIL, in production; one operation at a time (`step`) in simulation. The first error
# stops a job for good: what follows a failed write or fsync must not happen (SAFETY 15).
#
# The wake-up protocol of DiskPool. Everything shared is guarded by one mutex, and at each unlock
#     the eventfd is readable  <=>  the list of completed jobs is not empty,
# because both are changed together while the mutex is held. So a loop that waits for the eventfd cannot
# sleep over a completion, whatever the interleaving. Submitting signals a condition variable under the
# same mutex, and a thread looks at the queue under it before it waits: no order can lose that either.

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t* thread, const void* attributes, void* (*start)(void*) noexcept nogil, void* argument)
    int pthread_join(pthread_t thread, void** result)
    int pthread_mutex_init(pthread_mutex_t* mutex, const void* attributes)
    int pthread_mutex_destroy(pthread_mutex_t* mutex)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)
    int pthread_cond_init(pthread_cond_t* condition, const void* attributes)
    int pthread_cond_destroy(pthread_cond_t* condition)
    int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex)
    int pthread_cond_signal(pthread_cond_t* condition)
    int pthread_cond_broadcast(pthread_cond_t* condition)

cdef extern from "<unistd.h>" nogil:
    int getpid()

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    int eventfd_read(int fd, uint64_t* value)
    int eventfd_write(int fd, uint64_t value)
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

cdef enum:
    SECTOR_BYTES = 512          # what a disk writes as a whole or not at all (SAFETY 19)
    FILLED_BYTES_MIN = 4        # bytes other than zero that prove a sector of a batch was written
    IOVEC_MAX = 64
    ZEROS_BYTES = 262144

cdef uint8_t* _zeros = <uint8_t*>calloc(1, ZEROS_BYTES)

cdef enum:
    OP_CREATE
    OP_FALLOCATE
    OP_WRITE
    OP_ZERO
    OP_FDATASYNC
    OP_FSYNC
    OP_SYNC_IF_SPARSE
    OP_RENAME
    OP_UNLINK
    OP_FSYNC_DIR
    OP_UNCACHE

_OPERATION_NAMES = (
    "create", "fallocate", "write", "zero", "fdatasync", "fsync", "fdatasync", "rename", "unlink", "fsync_dir",
    "uncache",
)

cdef struct Operation:
    int kind
    bint holds_batches          # OP_WRITE: its bytes are batches of the log
    int first_buffer            # OP_WRITE
    int buffer_count
    int* fd                     # of a File that the job keeps alive
    const char* path
    const char* target
    int64_t offset
    int64_t length

cdef struct JobState:
    VfsTable* table
    Operation* operations
    int operation_count
    int operation_capacity
    Py_buffer* buffers
    int buffer_count
    int buffer_capacity
    int next_operation
    int error
    JobState* next_completed
    PyObject* owner


cdef bint _has_sparse_sector(JobState* job, Operation* write) noexcept nogil:
    """Whether a round left a sector so empty that its zeros would not prove that it was never written.

    Recovery takes a sector that is all zeros as such a proof. So a round has to put FILLED_BYTES_MIN non-zero
    bytes into each sector that it begins, which no flip of a bit turns into zeros. (The sector in which it
    begins is judged by the header that starts there: see judge_tail.)
    """
    cdef int64_t position = write.offset
    cdef int64_t sector_end = (position // SECTOR_BYTES + 1) * SECTOR_BYTES
    cdef int filled = FILLED_BYTES_MIN if position % SECTOR_BYTES else 0
    cdef int buffer
    cdef const uint8_t* data
    cdef int64_t at, size, stop
    for buffer in range(write.first_buffer, write.first_buffer + write.buffer_count):
        data = <const uint8_t*>job.buffers[buffer].buf
        size = job.buffers[buffer].len
        at = 0
        while at < size:
            stop = min(size, at + sector_end - position)
            position += stop - at
            while at < stop and filled < FILLED_BYTES_MIN:
                filled += data[at] != 0
                at += 1
            at = stop
            if position == sector_end:
                if filled < FILLED_BYTES_MIN:
                    return True
                filled = 0
                sector_end += SECTOR_BYTES
    return position % SECTOR_BYTES != 0 and filled < FILLED_BYTES_MIN


cdef int64_t _write_buffers(JobState* job, Operation* operation) noexcept nogil:
    cdef iovec parts[IOVEC_MAX]
    cdef int done = 0, count
    cdef int64_t offset = operation.offset, total, result
    while done < operation.buffer_count:
        count = 0
        total = 0
        while count < IOVEC_MAX and done < operation.buffer_count:
            parts[count].iov_base = job.buffers[operation.first_buffer + done].buf
            parts[count].iov_len = job.buffers[operation.first_buffer + done].len
            total += parts[count].iov_len
            count += 1
            done += 1
        result = write_all(job.table, operation.fd[0], parts, count, offset)
        if result < 0:
            return result
        offset += total
    return 0


cdef int64_t _write_zeros(JobState* job, Operation* operation) noexcept nogil:
    cdef iovec part
    cdef int64_t offset = operation.offset, end = operation.offset + operation.length, result
    while offset < end:
        part.iov_base = _zeros
        part.iov_len = min(<int64_t>ZEROS_BYTES, end - offset)
        offset += part.iov_len
        result = write_all(job.table, operation.fd[0], &part, 1, offset - part.iov_len)
        if result < 0:
            return result
    return 0


cdef int64_t _sync_if_sparse(JobState* job, int fd) noexcept nogil:
    cdef int i
    for i in range(job.operation_count):
        if job.operations[i].holds_batches and _has_sparse_sector(job, &job.operations[i]):
            return job.table.fdatasync(job.table.context, fd)
    return 0


cdef int64_t _execute(JobState* job, Operation* operation) noexcept nogil:
    cdef VfsTable* table = job.table
    cdef int64_t result
    if operation.kind == OP_WRITE:
        return _write_buffers(job, operation)
    if operation.kind == OP_FDATASYNC:
        return table.fdatasync(table.context, operation.fd[0])
    if operation.kind == OP_SYNC_IF_SPARSE:
        return _sync_if_sparse(job, operation.fd[0])
    if operation.kind == OP_ZERO:
        return _write_zeros(job, operation)
    if operation.kind == OP_FSYNC:
        return table.fsync(table.context, operation.fd[0])
    if operation.kind == OP_CREATE:
        result = table.open(table.context, operation.path, OPEN_NEW)
        if result >= 0:
            operation.fd[0] = <int>result
        return result
    if operation.kind == OP_FALLOCATE:
        return table.fallocate(table.context, operation.fd[0], operation.length)
    if operation.kind == OP_RENAME:
        return table.rename(table.context, operation.path, operation.target)
    if operation.kind == OP_UNLINK:
        return table.unlink(table.context, operation.path)
    if operation.kind == OP_UNCACHE:
        return table.uncache(table.context, operation.fd[0])
    return table.fsync_dir(table.context, operation.path)


cdef bint _job_step(JobState* job) noexcept nogil:
    """Execute the next operation; whether another follows."""
    cdef int64_t result
    if job.error == 0 and job.next_operation < job.operation_count:
        result = _execute(job, &job.operations[job.next_operation])
        if result < 0:
            job.error = <int>-result
        else:
            job.next_operation += 1
    return job.error == 0 and job.next_operation < job.operation_count


@cython.final
cdef class DiskJob:
    """An ordered list of file operations. Build it, then `run()` it, or `step()` through it, once.

    After the end `error` is 0, or the errno of the operation that failed, named by `error_operation`; nothing
    after that operation was done. `tag` is for whoever built the job.
    """

    cdef JobState state
    cdef Vfs vfs
    cdef list keep              # Files and encoded paths that the operations point into
    cdef bint submitted
    cdef public object tag

    def __cinit__(self, Vfs vfs not None):
        self.vfs = vfs
        self.keep = []
        self.state.table = &vfs.table
        self.state.owner = <PyObject*>self

    def __dealloc__(self):
        self._release()
        free(self.state.operations)
        free(self.state.buffers)

    cdef void _release(self) noexcept:
        cdef int i
        for i in range(self.state.buffer_count):
            PyBuffer_Release(&self.state.buffers[i])
        self.state.buffer_count = 0

    cdef Operation* _add(self, int kind, File file, str path) except NULL:
        cdef JobState* state = &self.state
        cdef int capacity
        cdef void* grown
        if state.operation_count == state.operation_capacity:
            capacity = max(8, 2 * state.operation_capacity)
            grown = realloc(state.operations, capacity * sizeof(Operation))
            if grown == NULL:
                raise MemoryError()
            state.operations = <Operation*>grown
            state.operation_capacity = capacity
        cdef Operation* operation = &state.operations[state.operation_count]
        memset(operation, 0, sizeof(Operation))
        operation.kind = kind
        if file is not None:
            self.keep.append(file)
            operation.fd = &file.fd
        if path is not None:
            encoded = _os.fsencode(path)
            self.keep.append(encoded)
            operation.path = PyBytes_AS_STRING(encoded)
        state.operation_count += 1
        return operation

    def create(self, File file not None):
        """Create `file` (or empty what a crash left under its name) and open it."""
        self._add(OP_CREATE, file, file.path)

    def fallocate(self, File file not None, int64_t length):
        self._add(OP_FALLOCATE, file, None).length = length

    def write(self, File file not None, int64_t offset, object buffers, *, bint batches=False):
        """One vectored write without copies. `batches`: they are log bytes (for `sync_if_sparse`)."""
        cdef JobState* state = &self.state
        cdef int first = state.buffer_count, capacity
        cdef void* grown
        cdef int64_t length = 0
        if first + len(buffers) > state.buffer_capacity:
            capacity = max(first + <int>len(buffers), 2 * state.buffer_capacity)
            grown = realloc(state.buffers, capacity * sizeof(Py_buffer))
            if grown == NULL:
                raise MemoryError()
            state.buffers = <Py_buffer*>grown
            state.buffer_capacity = capacity
        for buffer in buffers:
            PyObject_GetBuffer(buffer, &state.buffers[state.buffer_count], PyBUF_SIMPLE)
            length += state.buffers[state.buffer_count].len
            state.buffer_count += 1
        cdef Operation* operation = self._add(OP_WRITE, file, None)
        operation.offset = offset
        operation.length = length
        operation.first_buffer = first
        operation.buffer_count = state.buffer_count - first
        operation.holds_batches = batches

    def zero(self, File file not None, int64_t offset, int64_t length):
        """Overwrite `length` bytes at `offset` with zeros."""
        cdef Operation* operation = self._add(OP_ZERO, file, None)
        operation.offset = offset
        operation.length = length

    def fdatasync(self, File file not None):
        self._add(OP_FDATASYNC, file, None)

    def fsync(self, File file not None):
        self._add(OP_FSYNC, file, None)

    def sync_if_sparse(self, File file not None):
        """Fdatasync `file` when the batches written by this job left a sector (nearly) all zeros.

        Such a sector proves nothing at recovery, so the watermark above it must be durable before the round
        completes: then a bad batch there is known to be rot (SAFETY 19).
        """
        self._add(OP_SYNC_IF_SPARSE, file, None)

    def rename(self, str source not None, str target not None):
        cdef Operation* operation = self._add(OP_RENAME, None, source)
        encoded = _os.fsencode(target)
        self.keep.append(encoded)
        operation.target = PyBytes_AS_STRING(encoded)

    def unlink(self, str path not None):
        self._add(OP_UNLINK, None, path)

    def fsync_dir(self, str path not None):
        self._add(OP_FSYNC_DIR, None, path)

    def uncache(self, File file not None):
        """Let the page cache forget what is flushed of `file`: its memory serves the next writes."""
        self._add(OP_UNCACHE, file, None)

    def run(self):
        """Execute everything, on this thread, without the GIL."""
        with nogil:
            while _job_step(&self.state):
                pass
        self._ended()

    def step(self):
        """Execute one operation. True while there is another one to do."""
        cdef bint more
        with nogil:
            more = _job_step(&self.state)
        if not more:
            self._ended()
        return more

    cdef int _ended(self) except -1:
        self._release()
        if self.vfs.bug is not None:
            bug, self.vfs.bug = self.vfs.bug, None
            raise bug
        return 0

    def __len__(self):
        return self.state.operation_count

    @property
    def error(self):
        return self.state.error

    @property
    def finished(self):
        return self.state.error != 0 or self.state.next_operation == self.state.operation_count

    @property
    def error_operation(self):
        """What failed, in words; empty when nothing did."""
        if self.state.error == 0:
            return ""
        return self.operation(self.state.next_operation)

    def operation(self, int index):
        """Operation `index` in words, for errors, traces and tests."""
        if not 0 <= index < self.state.operation_count:
            raise IndexError(index)
        cdef Operation* operation = &self.state.operations[index]
        name = _OPERATION_NAMES[operation.kind]
        if operation.path != NULL:
            return f"{name} {_os.fsdecode(<bytes>operation.path)}"
        for file in self.keep:
            if isinstance(file, File) and &(<File>file).fd == operation.fd:
                if operation.kind in (OP_WRITE, OP_ZERO):
                    return f"{name} {file.path} {operation.offset}+{operation.length}"
                return f"{name} {file.path}"
        return name


cdef struct PoolState:
    pthread_mutex_t mutex
    pthread_cond_t work
    JobState** queue            # a ring
    int capacity
    int first
    int count
    JobState* completed_first   # a list, oldest first
    JobState* completed_last
    int event_fd
    bint closing


cdef void* _pool_thread(void* argument) noexcept nogil:
    cdef PoolState* pool = <PoolState*>argument
    cdef JobState* job
    pthread_mutex_lock(&pool.mutex)
    while True:
        while pool.count == 0 and not pool.closing:
            pthread_cond_wait(&pool.work, &pool.mutex)
        if pool.count == 0:
            break
        job = pool.queue[pool.first]
        pool.first = (pool.first + 1) % pool.capacity
        pool.count -= 1
        pthread_mutex_unlock(&pool.mutex)
        while _job_step(job):
            pass
        pthread_mutex_lock(&pool.mutex)
        if pool.completed_first == NULL:
            pool.completed_first = job
            eventfd_write(pool.event_fd, 1)
        else:
            pool.completed_last.next_completed = job
        pool.completed_last = job
    pthread_mutex_unlock(&pool.mutex)
    return NULL


@cython.final
cdef class DiskPool:
    """Threads that run disk jobs and never take the GIL; `fileno()` becomes readable when jobs completed.

    threads: how many jobs run at once. queued_jobs_max: how many more may wait; `submit` refuses beyond.
    A forked child has the object but not the threads: there it takes no job, and its end waits for nobody.
    """

    cdef PoolState state
    cdef pthread_t* threads
    cdef int thread_count
    cdef int process_id         # of the process that has the threads
    cdef readonly int pending   # submitted and not drained yet

    def __cinit__(self, int threads=2, *, int queued_jobs_max=4096):
        if threads < 1 or queued_jobs_max < 1:
            raise ValueError("threads and queued_jobs_max must be at least 1")
        self.state.event_fd = -1
        self.process_id = getpid()
        pthread_mutex_init(&self.state.mutex, NULL)
        pthread_cond_init(&self.state.work, NULL)
        self.state.capacity = queued_jobs_max
        self.state.queue = <JobState**>malloc(queued_jobs_max * sizeof(JobState*))
        self.threads = <pthread_t*>malloc(threads * sizeof(pthread_t))
        if self.state.queue == NULL or self.threads == NULL:
            raise MemoryError()
        self.state.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.state.event_fd < 0:
            raise OSError(errno, _os.strerror(errno))
        cdef int failed
        for _ in range(threads):
            failed = pthread_create(&self.threads[self.thread_count], NULL, _pool_thread, &self.state)
            if failed:
                raise OSError(failed, _os.strerror(failed))
            self.thread_count += 1

    def __dealloc__(self):
        if getpid() != self.process_id:
            return              # the mutex may be locked for ever here; what is lost ends with this process
        self._stop()
        for job in self._take():
            del job
        if self.state.event_fd >= 0:
            _sys_close(self.state.event_fd)
        pthread_cond_destroy(&self.state.work)
        pthread_mutex_destroy(&self.state.mutex)
        free(self.state.queue)
        free(self.threads)

    def fileno(self):
        return self.state.event_fd

    def submit(self, DiskJob job not None):
        """Queue `job`. RuntimeError when the queue is full, the pool is closed, or the job was run before."""
        cdef PoolState* pool = &self.state
        cdef bint full, closing
        if job.submitted or job.state.next_operation or job.state.error:
            raise RuntimeError("a job runs once")
        if getpid() != self.process_id:
            raise RuntimeError("the threads of this disk pool are in another process, of which this is a fork")
        # The GIL may be held over the mutex: no holder of the mutex ever waits for the GIL.
        pthread_mutex_lock(&pool.mutex)
        full = pool.count == pool.capacity
        closing = pool.closing
        if not full and not closing:
            pool.queue[(pool.first + pool.count) % pool.capacity] = &job.state
            pool.count += 1
            pthread_cond_signal(&pool.work)
        pthread_mutex_unlock(&pool.mutex)
        if closing:
            raise RuntimeError("the disk pool is closed")
        if full:
            raise RuntimeError(f"the disk queue is full: {pool.capacity} jobs")
        Py_INCREF(job)                  # until drained; only drain(), under the GIL, can look at it before this
        job.submitted = True
        self.pending += 1

    cdef list _take(self):
        """The completed jobs; leaves the list empty and the eventfd unreadable."""
        cdef PoolState* pool = &self.state
        cdef JobState* job
        cdef JobState* following
        cdef uint64_t value
        cdef list jobs = []
        pthread_mutex_lock(&pool.mutex)
        job = pool.completed_first
        pool.completed_first = pool.completed_last = NULL
        if job != NULL:
            eventfd_read(pool.event_fd, &value)
        pthread_mutex_unlock(&pool.mutex)
        while job != NULL:
            following = job.next_completed      # read before the job can be freed
            finished = <DiskJob>job.owner
            jobs.append(finished)
            Py_DECREF(finished)         # submit() took it
            job = following
        return jobs

    def drain(self):
        """The jobs that completed since the last call, in the order in which they did."""
        cdef list jobs = self._take()
        self.pending -= len(jobs)
        for job in jobs:
            (<DiskJob>job)._ended()
        return jobs

    cdef void _stop(self) noexcept:
        cdef int i, count = self.thread_count
        self.thread_count = 0
        with nogil:
            pthread_mutex_lock(&self.state.mutex)
            self.state.closing = True
            pthread_cond_broadcast(&self.state.work)
            pthread_mutex_unlock(&self.state.mutex)
            for i in range(count):
                pthread_join(self.threads[i], NULL)

    def close(self):
        """Finish what is queued and end the threads. `drain()` still gives the completions. Idempotent."""
        if getpid() == self.process_id:
            self._stop()
