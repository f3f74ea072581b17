"""Stage `data`: read the task's data, cut it into splits, say what was read."""

from pocketpipe.pipelines.data.pipeline import create_pipeline

__all__ = ["create_pipeline"]
