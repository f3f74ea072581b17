"""PyTorch to ONNX, clean and the same to the byte, checked through ONNX Runtime."""
