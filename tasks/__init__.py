"""The tasks: one YAML file for each. A new task needs no change in any other file."""
