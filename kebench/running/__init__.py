"""Runs editors: makes a plan from settings, writes rows of answers, and scores them in a record."""
