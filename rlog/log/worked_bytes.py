"""Examples of the formats, byte for byte, as docs/format.md shows them. Codecs and tests are held to them."""

from typing import Final

WORKED_BATCH: Final = """
00000000 00000007   base offset 7: stamped by the leader
00000048            length: 72 bytes follow
00000003            generation 3: stamped by the leader
02                  magic: message format v2
6859ac33            crc32c of everything from the next byte on
0000                attributes: no compression, the producer's timestamps, not control
00000001            last offset delta: offsets 7 and 8
00000199 c82cc000   base timestamp 1760000000000 ms
00000199 c82cc005   max timestamp: 5 ms later
00000000 00000029   producer id 41
0001                producer epoch 1
00000064            base sequence 100
00000002            count: 2 records
                    first record
1e                  length 15
00                  attributes
00                  timestamp delta 0
00                  offset delta 0
04 6b31             key "k1"
04 7631             value "v1"
02                  1 header
02 68 04 6869       "h": "hi"
                    second record
0c                  length 6
00                  attributes
0a                  timestamp delta 5
02                  offset delta 1
01                  no key (-1)
01                  no value (-1)
00                  no headers
"""

WORKED_APPEND_TIME: Final = """
00000000 00000007   base offset 7
00000048            length
00000003            generation 3
02                  magic
001b44b9            crc32c, made anew by the leader
0008                attributes: bit 3, every record has the time of its append
00000001            last offset delta
00000199 c82cc000   base timestamp: the producer's, as it was
00000199 c82ce328   max timestamp 1760000009000 ms: when the leader appended them
00000000 00000029   producer id 41
0001                producer epoch 1
00000064            base sequence 100
00000002            count: 2 records
                    the records, unchanged
1e 00 00 00         a timestamp delta, which means nothing now
04 6b31 04 7631
02 02 68 04 6869
0c 00 0a 02 01 01
00
"""

WORKED_INDEX: Final = """
52 4c 49 58         "RLIX"
00000003            version 3
00000000 00000007   base offset 7: of the segment
00000000 00000009   end offset 9
00000000 00000054   end position: 84 bytes of batches
00000018            24 bytes of entries
0000002c            44 bytes of the producer table
                    the one entry
00000000 00000007   a batch with base offset 7 begins
00000000 00000000   at byte 0
00000199 c82cc005   the latest record up to the next entry is of 1760000000005 ms
                    the producer table: one producer
00000000 00000029   producer id 41
0001                its epoch 1
0001                one batch is remembered
00000064 00000065   sequences 100 to 101
00000000 00000007   offsets 7
00000000 00000008   to 8
ffffffff ffffffff   append time -1: the producer's timestamps
ba80274a            crc32c of everything before
"""


def worked_bytes(annotated: str) -> bytes:
    """The bytes of a dump like WORKED_BATCH: in each line hex digits, then, after three blanks, prose."""
    return bytes.fromhex("".join(line.split("   ")[0] for line in annotated.splitlines()))
