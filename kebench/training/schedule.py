"""Learning-rate schedules."""


def warmup_then_decay(step: int, warmup: int, decay: int) -> float:
    """The share of the peak rate: linear from 0 over `warmup` steps, then linear to 0 at `decay`."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (decay - step) / max(1, decay - warmup))
