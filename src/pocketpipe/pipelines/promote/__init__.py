"""Stage `promote`: register what was made; it becomes champion if it earned it."""

from pocketpipe.pipelines.promote.pipeline import create_pipeline

__all__ = ["create_pipeline"]
