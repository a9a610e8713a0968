"""Learning-rate schedules."""


def warmup_then_decay(step: int, warmup: int, decay: int) -> float:
    """Returns the factor of the highest learning rate at a step.

    It rises linearly from 0 to 1 in the first `warmup` steps, then falls linearly to 0 at step `decay`.
    """
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (decay - step) / max(1, decay - warmup))
