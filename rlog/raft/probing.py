"""How two logs that differ find where they agree, by their generation tables alone.

Because (offset, generation) names one content for ever (SAFETY 28), and a generation's only leader starts
writing at one offset, two logs that both hold a run of generation g hold it from the same offset on, and are
equal below every offset at which both hold g. So two logs are compared by their runs, and a divergence of a
million records costs no more round trips than there are generations in it (SAFETY 44).

    follower, asked about (prev, g) and not holding it:  `hint`
        the highest offset h <= min(prev, its end) below which its record is of a generation <= g
    leader, told (h, hg):  `probe_after`
        if it has a run of hg too, the logs agree up to where the shorter of the two runs ends; else the end
        of its last run below hg, to be asked about next

Each answer makes the leader ask about an older generation, or about a shorter prefix that must match.
"""

from bisect import bisect_left, bisect_right

from rlog.generations import GenerationTable


def hint(table: GenerationTable, offset: int, generation: int) -> tuple[int, int]:
    """The highest (h, generation before h) with h <= offset and that generation <= `generation`."""
    run = bisect_left(table.starts, offset) - 1
    while run >= 0 and table.generations[run] > generation:
        offset = table.starts[run]
        run -= 1
    return (offset, table.generations[run]) if run >= 0 else (offset, 0)


def probe_after(table: GenerationTable, hint_offset: int, hint_generation: int, log_end: int) -> int:
    """The offset to ask about next, given a follower's hint; always a batch end of this log.

    With a run of the hint's generation on both sides the lower of its two ends is a batch end of both logs;
    otherwise a run's end is one by nature, even where it lies past `hint_offset`.
    """
    run = bisect_right(table.generations, hint_generation) - 1
    if run < 0:
        return 0
    end = table.starts[run + 1] if run + 1 < len(table.starts) else log_end
    return min(end, hint_offset) if table.generations[run] == hint_generation else end
