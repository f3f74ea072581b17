"""Stage `report`: the one-page report."""

from pocketpipe.pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
