"""Rules of the conversion from JAX to ONNX, by kind of primitive."""
