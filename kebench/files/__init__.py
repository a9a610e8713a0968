"""Files: YAML and JSON, the home folder, and what comes with kebench ready-made."""
