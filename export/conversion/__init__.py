"""Converts the trained model to fp32 ONNX, fuses its attention, and reads and writes ONNX files."""
