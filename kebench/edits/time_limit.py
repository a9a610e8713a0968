"""A limit on the time that a block of code may take."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kebench.errors import BadSetting

AGAIN_AFTER = 1.0
"""Seconds after which the block is interrupted again, if it goes on nevertheless."""


class EditTimeout(BaseException):
    """A block of code took longer than it may. No `except Exception` in the block catches it."""


def check_time_limit() -> None:
    """Checks that this thread and this system can interrupt a block.

    Raises:
        BadSetting: the system has no timer signal (Windows), or this is not the main thread.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        raise BadSetting(
            "edit-timeout: wanted a POSIX system, and Python's main thread: no other gets signals"
        )


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupts the block after some seconds; None: never.

    The block is interrupted between two Python instructions. A single call into C, such as one product of
    matrices, comes to its end first, and other threads are not interrupted.

    Args:
        seconds: the limit.

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
