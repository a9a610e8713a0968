"""The editors, each in a package of its own. A new editor changes no other file."""
