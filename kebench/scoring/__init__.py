"""Answers in, scores out: equality, protocols, metrics, intervals, a run's record. Never imports torch."""
