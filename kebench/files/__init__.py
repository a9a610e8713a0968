"""Reading and writing files: YAML, JSON, kebench's home folder, and the files shipped with kebench."""
