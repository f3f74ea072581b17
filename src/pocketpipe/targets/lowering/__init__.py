"""From an ONNX file to an object file and a memory plan. Everything in here uses TVM and is imported when used."""
