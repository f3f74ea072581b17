"""The pipelines by name: each stage alone, `compress` (all of them), `retrain` (the same, from the champion)."""

from kedro.pipeline import Pipeline

from pocketpipe.pipelines import compile as compile_
from pocketpipe.pipelines import data, evaluate, export, finetune, profile, promote, report, search, sparsify, teacher


def register_pipelines() -> dict[str, Pipeline]:
    """Explicit, because `find_pipelines` imports only the pipeline that is named on the command line."""
    stages = {
        "data": data.create_pipeline(),
        "teacher": teacher.create_pipeline(),
        "profile": profile.create_pipeline(),
        "sparsify": sparsify.create_pipeline(),
        "search": search.create_pipeline(),
        "finetune": finetune.create_pipeline(),
        "export": export.create_pipeline(),
        "compile": compile_.create_pipeline(),
        "evaluate": evaluate.create_pipeline(),
        "report": report.create_pipeline(),
        "promote": promote.create_pipeline(),
    }
    from_champion = {
        "teacher": teacher.create_pipeline("champion"),
        "search": search.create_pipeline("champion"),
        "evaluate": evaluate.create_pipeline("yardstick"),
    }
    compress = sum(stages.values(), Pipeline([]))
    retrain = sum((stages | from_champion).values(), Pipeline([]))
    return {**stages, "compress": compress, "retrain": retrain, "__default__": compress}
