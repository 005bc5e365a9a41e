"""SIGINT at a chosen step of the interpreter, as the system would deliver it.

A trace function sees each bytecode of rlog's code in turn. At the chosen one it makes the signal pending, in
a way that runs no bytecode of its own: it drops an object whose weak reference calls back into C. So Python's
handler runs where it would had the signal come from outside just then: at the next call, start of a function
or jump back in rlog's code, and nowhere where no signal can be handled.
"""

import ctypes
import dis
import signal
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import rlog

# Where the interpreter looks for signals. At others the next one of these is as good.
LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "SEND", "YIELD")
OURS = str(Path(rlog.__file__).parent)

_set_pending = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("PyErr_SetInterrupt", ctypes.pythonapi))


class _Trigger:
    """Dropped: the signal is pending."""


Handler = Callable[[int, FrameType | None], object]


def interrupted(
    call: Callable[[], object],
    step: int,
    *,
    within: str = OURS,
    handler: Handler = signal.default_int_handler,
) -> tuple[bool, bool]:
    """Run `call` with SIGINT arriving at its `step`-th look for signals, in code of files below `within`.

    Returns whether there was such a step, and whether KeyboardInterrupt came out of it.
    """
    seen = 0
    triggers = [_Trigger()]
    reference = weakref.ref(triggers[0], _set_pending)

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        nonlocal seen
        if seen > step or not frame.f_code.co_filename.startswith(within):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith(LOOKS):
            seen += 1
            if seen > step:
                del triggers[0]
        return trace

    before = signal.signal(signal.SIGINT, handler)
    sys._getframe().f_trace_opcodes = True  # Python 3.12 traces opcodes when this was set before settrace
    sys.settrace(trace)
    try:
        call()
        return not triggers, False
    except KeyboardInterrupt:
        return True, True
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGINT, before)
        del reference
