"""Prediction and evaluation with bundles, ONNX files and torch programs."""
