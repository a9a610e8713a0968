"""Base models of three families with one interface: it takes prompts and returns answers and logits."""
