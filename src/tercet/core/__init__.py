"""Shared values and services without dependencies on other packages: errors, files, predictions, devices."""
