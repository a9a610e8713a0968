"""Edits as values: what an editor is, what it returns, and how an edited model is asked."""
