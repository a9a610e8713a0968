"""Runs tests of a network, such as whether its hidden states can be reused. A failure does not stop a run."""

import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

UNSUITED = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""The errors that a network's code raises when it is called in a way for which it was not written."""


def holds(proof: Callable[[], bool], failed: str) -> bool:
    """Returns True if a test of a network succeeds. If it fails or raises one of `UNSUITED`, logs the reason.

    Args:
        proof: the test: it runs the network and compares results.
        failed: the beginning of the line in the log: the name of the model and the consequence of the
            failure.

    Raises:
        torch.OutOfMemoryError: a pass did not fit in memory. This says nothing about the network.
        Exception: the test raised an error that is not in `UNSUITED`, such as one of the operating system.
    """
    try:
        if proof():
            return True
        why = "the results differ"
    except torch.OutOfMemoryError:
        raise
    except UNSUITED as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
    logger.info("%s (%s)", failed, why)
    return False
