"""Training of base models and of editors: schedules, checkpoints, and the card of what was trained."""
