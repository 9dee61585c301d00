"""Export of a bundle as one ONNX file or one torch program, verification, and benchmarks of such files."""
