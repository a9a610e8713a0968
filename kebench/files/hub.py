"""Finds out whether the Hugging Face Hub can be reached, so that its absence costs seconds.

The Hub's client tries each file six times, with pauses of 23 seconds in all.
"""

from __future__ import annotations

from functools import cache
from threading import Thread

PATIENCE_SECONDS = 5.0


@cache
def only_cached() -> bool:
    """Returns True if the Hub cannot be reached, so that only what is in its cache can be loaded.

    The Hub is asked once in a process, and any answer counts. Nothing is asked in the client's offline mode,
    which the client obeys itself.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    answered = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE_SECONDS)
        except Exception:  # the errors of its HTTP library differ from version to version
            return
        answered.append(True)

    asking = Thread(target=ask, daemon=True)  # finding the address of the host has no time limit of its own
    asking.start()
    asking.join(PATIENCE_SECONDS)
    return not answered
