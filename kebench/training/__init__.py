"""Training of base models, and what the training of editors shares with it: schedules, checkpoints, cards."""
