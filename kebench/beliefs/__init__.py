"""Measures how edits change the log-odds of answers, and plots it."""
