"""The registry of this machine, opened: by itself, and for one run."""

from dataclasses import dataclass

from pocketpipe import machine
from pocketpipe.tracking.registry import Registered, Registry
from pocketpipe.tracking.store import EXPERIMENT, open_store


def open_registry() -> Registry:
    """The registry of this machine's MLflow store."""
    store = open_store(machine.tracking_uri(), machine.artifact_root(), EXPERIMENT)
    return Registry(store, machine.output_root() / "workspaces" / "downloads")


@dataclass(frozen=True)
class RegistryOfRun:
    """The registry, and for which run and request something is to be registered."""

    registry: Registry
    model: str
    """Name of the registered model."""
    run_id: str
    request: str
    """Fingerprint of parameters and data: a retraining with the same one has nothing to do."""
    beside: Registered | None = None
    """The champion that the run was evaluated beside, in a retraining."""
