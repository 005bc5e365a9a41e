"""The consensus core: pure decisions about generations and offsets. No I/O, no clock, no payload bytes."""
