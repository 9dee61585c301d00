"""The HTTP server. It runs exported files and does not import torch."""
