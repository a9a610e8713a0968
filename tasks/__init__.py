"""The tasks, one YAML file each. Adding one touches no other file."""
