"""Limits the time that a block of code may take."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kebench.errors import BadSetting

AGAIN_AFTER = 1.0
"""If the block goes on after it was interrupted, it is interrupted again after this number of seconds."""


class EditTimeout(BaseException):
    """A block of code took too long. No `except Exception` in the block catches this error."""


def check_time_limit() -> None:
    """Checks that this thread and this system can interrupt a block.

    Raises:
        BadSetting: the system has no timer signal (Windows), or this is not the main thread.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        raise BadSetting(
            "edit-timeout: wanted a POSIX system and Python's main thread, because others get no signals"
        )


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupts the block if it takes too long.

    The block is interrupted between two Python instructions: a call into C, such as one product of matrices,
    is completed first. Other threads are not interrupted.

    Args:
        seconds: the limit, or None for no limit.

    Raises:
        EditTimeout: the block took longer.
        BadSetting: see `check_time_limit`.
    """
    if seconds is None:
        yield
        return
    check_time_limit()
    armed = True

    def ring(_number: int, _frame: FrameType | None) -> None:
        if armed:
            raise EditTimeout(f"it took more than {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_AFTER)
    try:
        try:
            yield
        finally:
            armed = False  # the timer may go off until it is stopped
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
