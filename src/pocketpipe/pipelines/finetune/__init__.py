"""Stage `finetune`: train the slim network, with the teacher's outputs beside the targets."""

from pocketpipe.pipelines.finetune.pipeline import create_pipeline

__all__ = ["create_pipeline"]
