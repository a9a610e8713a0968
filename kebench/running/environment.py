"""Describes what a number was computed on: versions, hardware and memory."""

import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from kebench.models.model import AbstractModel

PACKAGES = ("kebench", "torch", "transformers", "tokenizers", "numpy", "rapidfuzz", "datasets", "evaluate")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of every package that could change a number.

    In a checkout, the commit of kebench is among them. It is read once in a process: modules that are loaded
    do not change when the files do.
    """
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    commit = _commit()
    return {**found, "commit": commit} if commit else found


def _commit() -> str | None:
    """Returns the commit of the checkout of this file, with `+dirty` if a tracked file differs from it."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # fails for a wheel inside another checkout
        return git("rev-parse", "HEAD")[:12] + ("+dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def hardware(device: torch.device) -> dict[str, str | int]:
    """Returns the processor, its threads, and the accelerator if one is used."""
    found: dict[str, str | int] = {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


def execution(model: AbstractModel, prompts: Sequence[str]) -> dict[str, str | int]:
    """Returns the hardware that a model is on, its number type and its batches.

    `edits_in_one_pass`, which is false, is present only if edits had to be asked one by one (`OnePass`).
    `prompts_cut` is present only if some of the prompts are longer than the task allows.

    Args:
        model: the model.
        prompts: the prompts of the run. Which of them this process has asked does not matter: a run that was
            continued, or found the base answers in the cache, counts as any other.
    """
    found = {**hardware(model.device), "dtype": model.dtype, **model.batching.facts()}
    model.prompt_ids(prompts)
    if n_cut := len(model.cut.intersection(prompts)):
        found["prompts_cut"] = n_cut
    return {**found, "edits_in_one_pass": False} if model.one_pass.refuted else found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def reset_peak_memory(device: torch.device) -> None:
    """Starts to measure the peak anew, on systems that can do this: CUDA and Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5): VmHWM


def peak_memory_bytes(device: torch.device) -> int:
    """Returns the peak since `reset_peak_memory`, of the accelerator if one is used, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # since the process began
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
