"""Configuration dataclasses, and the parser that fills them from the command line, YAML and Python."""
