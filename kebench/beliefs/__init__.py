"""How edits move the probability of old and new answers, and a drawing of it."""
