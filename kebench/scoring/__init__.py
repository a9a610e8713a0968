"""Computes scores from answers: equality, protocols, the table of scores, intervals, records. No torch."""
