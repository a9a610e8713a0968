"""The editors, one package each. Adding one touches no other file."""
