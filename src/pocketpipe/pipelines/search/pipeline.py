"""The search stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.search.nodes import find_plan

INPUTS = [
    "params:task",
    "params:budget",
    "params:methods",
    "params:search",
    "params:finalists",
    "params:trainer",
    "params:seed",
    "teacher",
    "start",
    "profile",
    "splits",
    "data_root",
    "search_workspace",
]


def create_pipeline(*more_inputs: str) -> Pipeline:
    """Profile and teacher -> plan, trials; `more_inputs`: the champion, when its plan is tried first."""
    find = node(
        find_plan, inputs=[*INPUTS, *more_inputs], outputs=["plan", "slim", "trials", "search_record"], name="find_plan"
    )
    return Pipeline([find], namespace="search", prefix_datasets_with_namespace=False)
