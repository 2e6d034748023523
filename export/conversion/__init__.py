"""The trained model as an fp32 ONNX file, its attention fused, and how such files are read and written."""
