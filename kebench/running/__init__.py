"""Runs: from settings to plan, to answers on file, to a record."""
