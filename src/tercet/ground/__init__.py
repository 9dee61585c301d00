"""Floor 0: errors, the registry, devices and threads, files, and the one resize."""
