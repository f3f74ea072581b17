"""The data of a stage as MLflow's dataset inputs, so that the run's page says by digest what was used."""

import json
from typing import TYPE_CHECKING

from pocketpipe.record import StageRecord

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

LONGEST_DIGEST = 36
SUFFIX = "_digest"


def digests_of(record: StageRecord) -> dict[str, str]:
    """Digest of each split that the record's facts name as `<split>_digest`.

    >>> digests_of(StageRecord(stage="data", facts={"train_digest": "5e1", "classes": 10}))
    {'train': '5e1'}
    """
    return {name.removesuffix(SUFFIX): str(value) for name, value in record.facts.items() if name.endswith(SUFFIX)}


def dataset_inputs(record: StageRecord) -> "list[DatasetInput]":
    """One entry for each split of `digests_of`; its profile holds the number of examples, where the record tells it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for split, digest in digests_of(record).items():
        examples = record.metrics.get(f"{split}_examples")
        dataset = Dataset(
            name=split,
            digest=digest[:LONGEST_DIGEST],
            source_type="pocketpipe",
            source=json.dumps({"splits": record.data, "sha256": digest}),
            profile=None if examples is None else json.dumps({"num_rows": int(examples)}),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", split)]))
    return inputs
