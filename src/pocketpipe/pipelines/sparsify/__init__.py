"""Stage `sparsify`: before the search cuts, train the teacher until whole channels have little left to say."""

from pocketpipe.pipelines.sparsify.pipeline import create_pipeline

__all__ = ["create_pipeline"]
