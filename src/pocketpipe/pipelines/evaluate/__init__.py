"""Stage `evaluate`: the one opening of the test split, after plan and weights are final."""

from pocketpipe.pipelines.evaluate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
