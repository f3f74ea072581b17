"""Stage `compile`: a delivery folder for each target."""

from pocketpipe.pipelines.compile.pipeline import create_pipeline

__all__ = ["create_pipeline"]
