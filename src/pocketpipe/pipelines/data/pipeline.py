"""The data stage."""

from kedro.pipeline import Pipeline, node

from pocketpipe.pipelines.data.nodes import load_data


def create_pipeline() -> Pipeline:
    """Source -> splits, test split, record."""
    load = node(
        load_data,
        inputs=["params:task", "data_root", "params:seed"],
        outputs=["splits", "test_split", "data_record"],
        name="load_data",
    )
    return Pipeline([load], namespace="data", prefix_datasets_with_namespace=False)
