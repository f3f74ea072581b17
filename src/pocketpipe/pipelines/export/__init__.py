"""Stage `export`: the student as a clean ONNX file, checked through ONNX Runtime."""

from pocketpipe.pipelines.export.pipeline import create_pipeline

__all__ = ["create_pipeline"]
