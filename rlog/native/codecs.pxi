# The four codecs that the records of a batch may be compressed with, as every Kafka client writes and reads them.
#
#   gzip    one member; written at zlib's own level
#   snappy  written in the framing of Java's clients: 82 'SNAPPY' 00, two int32 versions, then blocks of an int32
#           size and that many bytes of raw snappy, each of up to 32 KiB of records. Read so too, or as one raw
#           block, which librdkafka writes. (The framing of snappy's own specification is not used by Kafka.)
#   lz4     one frame of independent blocks: Java reads no others
#   zstd    frames; level 3, as Java's
#
# Decompressing costs at most `bytes_max` bytes of output and a copy of it, whatever the input says of itself:
# gzip and lz4 are decompressed in steps; snappy cannot make more than SNAPPY_RATIO_MAX bytes of one, so a block that
# claims more is refused before memory is taken; zstd gets room for ZSTD_RATIO_MAX, of which pages come into being
# as they are written to.
#
# cramjam (snappy, zstd) is imported by the first batch that needs it.

import zlib as _zlib

import lz4.frame as _lz4

cdef extern from "Python.h":
    int PyBUF_WRITE
    PyObject* _raw_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    int _resize_bytes "_PyBytes_Resize"(PyObject**, Py_ssize_t) except -1

cdef enum:
    DECOMPRESSED_BYTES_MAX = 67108864      # what a batch may decompress to, unless told otherwise
    DECOMPRESS_STEP_BYTES_MIN = 65536
    XERIAL_HEADER_SIZE = 16
    XERIAL_BLOCK_BYTES = 32768
    SNAPPY_RATIO_MAX = 22                  # a copy of 64 bytes takes three
    ZSTD_RATIO_MAX = 32768                 # a block of 128 KiB takes four bytes
    ZSTD_LEVEL = 3

XERIAL_MAGIC = b"\x82SNAPPY\0"
XERIAL_HEADER = XERIAL_MAGIC + b"\0\0\0\1\0\0\0\1"


cdef object cramjam_for(int codec):
    name = CODEC_NAMES[codec]
    try:
        import cramjam
    except ImportError as error:
        message = f"{name} needs the package cramjam, which is not installed here"
        raise UnsupportedCodec(message, codec=name) from error
    return cramjam


cdef object too_large_to_decompress(int64_t bytes_max):
    return ValueError(f"decompress to more than {bytes_max} bytes")


# --- compress ---
cdef bytes compress(object records, int codec):
    """The records of a batch, compressed. `records` is a memoryview."""
    if codec == CODEC_GZIP:
        return _zlib.compress(records, wbits=16 + _zlib.MAX_WBITS)
    if codec == CODEC_LZ4:
        return _lz4.compress(records, block_linked=False, store_size=False)
    cramjam = cramjam_for(codec)
    if codec == CODEC_ZSTD:
        return bytes(cramjam.zstd.compress(records, level=ZSTD_LEVEL))
    blocks = [XERIAL_HEADER]
    for start in range(0, len(records), XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(records[start:start + XERIAL_BLOCK_BYTES]))
        blocks.append(len(block).to_bytes(4, "big"))
        blocks.append(block)
    return b"".join(blocks)


# --- decompress ---
cdef bytes decompress(bytes frame, int codec, int64_t bytes_max):
    """The records of a compressed batch: at most `bytes_max` bytes. Raises ValueError, UnsupportedCodec."""
    if codec == CODEC_GZIP or codec == CODEC_LZ4:
        try:
            return decompress_in_steps(lz4_steps() if codec == CODEC_LZ4 else gzip_steps(), frame, bytes_max)
        except (RuntimeError, _zlib.error) as error:     # lz4 raises RuntimeError for a bad frame
            raise ValueError(str(error)) from error
    cramjam = cramjam_for(codec)
    try:
        if codec == CODEC_SNAPPY:
            return unsnap(frame, bytes_max, cramjam.snappy)
        return unzstd(frame, bytes_max, cramjam)
    except cramjam.DecompressionError as error:
        raise ValueError(str(error)) from error


cdef object lz4_steps():
    context = _lz4.create_decompression_context()

    def step(bytes data, int64_t room):
        chunk, used, ended = _lz4.decompress_chunk(context, data, max_length=room)
        return chunk, data[used:], ended

    return step


cdef object gzip_steps():
    inner = _zlib.decompressobj(wbits=16 + _zlib.MAX_WBITS)

    def step(bytes data, int64_t room):
        chunk = inner.decompress(data, room)
        return chunk, inner.unused_data if inner.eof else inner.unconsumed_tail, inner.eof

    return step


cdef bytes decompress_in_steps(object step, bytes frame, int64_t bytes_max):
    """One whole frame and nothing behind it."""
    cdef list chunks = []
    cdef int64_t room = bytes_max
    cdef int64_t size
    cdef bint ended = False
    while not ended:
        size = len(frame)
        chunk, frame, ended = step(frame, min(room + 1, max(<int64_t> DECOMPRESS_STEP_BYTES_MIN, 4 * size)))
        chunks.append(chunk)
        room -= len(chunk)
        if room < 0:
            raise too_large_to_decompress(bytes_max)
        if not chunk and len(frame) == size and not ended:
            raise ValueError("end too early")
    if frame:
        raise ValueError("are followed by other bytes")
    return b"".join(chunks)


cdef list snappy_blocks(object view):
    """The raw blocks of a snappy section, each a view."""
    cdef int64_t position = XERIAL_HEADER_SIZE
    cdef int64_t total = len(view)
    cdef list blocks = []
    if total <= XERIAL_HEADER_SIZE or bytes(view[:8]) != XERIAL_MAGIC:
        return [view]
    while position < total:
        size = int.from_bytes(view[position:position + 4], "big")
        position += 4
        if not 0 < size <= total - position:
            raise ValueError("have a block of an impossible size")
        blocks.append(view[position:position + size])
        position += size
    return blocks


cdef bytes unsnap(bytes frame, int64_t bytes_max, object snappy):
    cdef int64_t total = 0
    cdef int64_t done = 0
    cdef list sizes = []
    cdef bytes plain
    blocks = snappy_blocks(memoryview(frame))
    for block in blocks:
        size = snappy.decompress_raw_len(block)
        if not 0 < size <= SNAPPY_RATIO_MAX * len(block):
            raise ValueError("claim a size that they cannot have")
        sizes.append(size)
        total += size
        if total > bytes_max:
            raise too_large_to_decompress(bytes_max)
    plain = PyBytes_FromStringAndSize(NULL, total)
    room = PyMemoryView_FromMemory(PyBytes_AS_STRING(plain), total, PyBUF_WRITE)
    for block, size in zip(blocks, sizes):
        if snappy.decompress_raw_into(block, room[done:done + size]) != size:
            raise ValueError("end too early")
        done += size
    return plain


cdef bytes unzstd(bytes frame, int64_t bytes_max, object cramjam):
    cdef int64_t room = min(bytes_max, ZSTD_RATIO_MAX * <int64_t> len(frame))
    cdef PyObject* plain = _raw_bytes(NULL, room)
    try:
        view = PyMemoryView_FromMemory(PyBytes_AS_STRING(<object> plain), room, PyBUF_WRITE)
        try:
            done = cramjam.zstd.decompress_into(frame, view)
        except cramjam.DecompressionError as error:
            if "whole buffer" in str(error):
                raise too_large_to_decompress(bytes_max) from error
            raise
        _resize_bytes(&plain, done)
        return <bytes> plain
    finally:
        Py_XDECREF(plain)
