"""Kedro's settings: hooks, resolvers, how parameters merge."""

import os
from typing import Any

# Before any engine is imported: nobody asked for figures about this run to be sent anywhere.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from pocketpipe import machine
from pocketpipe.hooks import RunHooks

HOOKS = (RunHooks(),)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow", "kedro-telemetry")
CONFIG_LOADER_ARGS: dict[str, Any] = {
    "base_env": "base",
    "default_run_env": "base",
    "merge_strategy": {"parameters": "soft"},
    "custom_resolvers": {"output": lambda folder: str(machine.output_root() / folder)},
}
