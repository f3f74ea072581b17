"""Stage `search`: which plan keeps the budget and the most of the metric."""

from pocketpipe.pipelines.search.pipeline import create_pipeline

__all__ = ["create_pipeline"]
