"""What commands import before they do anything, imported once: `forked` forks them from a process that has it."""

import importlib
import os

os.environ |= {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}  # as `pocketpipe.settings` says

ENGINES = (
    "alembic",
    "kedro.framework.cli.cli",
    "kedro.framework.session",
    "kedro.runner",
    "matplotlib.figure",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.tracking",
    "nni",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pytorch_lightning",
    "sklearn.datasets",
    "torch._dynamo",
    "torch.export",
    "torch.onnx",
    "tvm",
    "pocketpipe.exporting.onnx",
    "pocketpipe.hooks",
    "pocketpipe.integer.rules",
    "pocketpipe.pipeline_registry",
    "pocketpipe.targets.x86_64",
    "pocketpipe.training.module",
)

for name in ENGINES:
    importlib.import_module(name)
