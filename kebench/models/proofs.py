"""Runs a test of a network whose failure must not stop a run."""

import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

UNSUITED = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a network's own code raises when it is called in a way that it was not written for."""


def holds(proof: Callable[[], bool], failed: str) -> bool:
    """Returns what `proof` returns, or False if the network refuses to be called as the proof calls it.

    A proof that fails is logged, with the reason.

    Args:
        proof: runs the network and compares results.
        failed: what a failure means, with the model's name; it begins the line in the log.

    Raises:
        torch.OutOfMemoryError: a pass did not fit in memory, which says nothing about the network.
        Exception: an error of any other kind than `UNSUITED`, such as one of the operating system.
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
