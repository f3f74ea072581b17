"""The sparsify stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.sparsify.nodes import sparsify_network


def create_pipeline() -> Pipeline:
    """Teacher -> the network that the search cuts."""
    sparsify = node(
        sparsify_network,
        inputs=[
            "params:task",
            "params:sparsify",
            "params:trainer",
            "params:seed",
            "teacher",
            "splits",
            "data_root",
            "sparsify_workspace",
        ],
        outputs=["start", "sparsify_record"],
        name="sparsify_network",
    )
    return Pipeline([sparsify], namespace="sparsify", prefix_datasets_with_namespace=False)
