"""Stage `teacher`: the network at full size, trained here or brought by the user."""

from pocketpipe.pipelines.teacher.pipeline import create_pipeline

__all__ = ["create_pipeline"]
