"""Stage `profile`: what the teacher is and costs, and which budgets it can keep."""

from pocketpipe.pipelines.profile.pipeline import create_pipeline

__all__ = ["create_pipeline"]
