"""Base models of three families behind one interface: prompts in, answers, logits and gradients out."""
