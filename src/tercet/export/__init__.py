"""Exported models: one ONNX file or torch.export program per ensemble, verified against its bundle."""
