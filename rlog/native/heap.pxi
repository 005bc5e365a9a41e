"""Keep freed memory instead of returning it to the kernel after every group.

A node allocates and frees spans of about a megabyte for each group. By default glibc gives such memory back
at once, and the next group page-faults it in again: measured at 100 B records, a quarter of a node's CPU.
"""

cdef extern from *:
    """
    #include <malloc.h>
    static int rlog_retain_heap(int retained_bytes)
    {
    #ifdef __GLIBC__
        /* Blocks above this size are mapped one by one; 32 MiB is the largest that glibc takes. */
        return mallopt(M_MMAP_THRESHOLD, 32 << 20) && mallopt(M_TRIM_THRESHOLD, retained_bytes)
            && mallopt(M_TOP_PAD, retained_bytes / 4);
    #else
        (void)retained_bytes;
        return 0;
    #endif
    }
    """
    int rlog_retain_heap(int retained_bytes) noexcept nogil


def retain_freed_memory(int retained_bytes):
    """Let this process keep up to `retained_bytes` of freed memory at the top of its heap.

    Returns whether the C library took the setting; only glibc knows it.
    """
    return rlog_retain_heap(retained_bytes) != 0
