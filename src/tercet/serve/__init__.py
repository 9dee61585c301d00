"""HTTP server for exported ONNX files; the server process does not import torch."""
