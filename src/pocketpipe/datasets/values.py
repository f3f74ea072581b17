"""Datasets for pocketpipe's own values: networks, plans, splits. No pickle anywhere."""

from pathlib import Path

from pocketpipe.datasets.fresh import FreshDataset
from pocketpipe.network import StoredNetwork
from pocketpipe.plan import CompressionPlan
from pocketpipe.storage import load_network, load_split, save_network, save_split
from pocketpipe.task import Split, Splits


class NetworkDataset(FreshDataset[StoredNetwork]):
    """Factory reference, options and plan as JSON beside the weights as safetensors."""

    def _write(self, data: StoredNetwork, folder: Path) -> None:
        save_network(data, folder / "network")

    def _read(self, folder: Path) -> StoredNetwork:
        return load_network(folder / "network")


class PlanDataset(FreshDataset[CompressionPlan]):
    """A compression plan as canonical JSON."""

    def _write(self, data: CompressionPlan, folder: Path) -> None:
        (folder / "plan.json").write_text(data.to_json())

    def _read(self, folder: Path) -> CompressionPlan:
        return CompressionPlan.from_json((folder / "plan.json").read_text())


class SplitDataset(FreshDataset[Split]):
    """One split as an npz file."""

    def _write(self, data: Split, folder: Path) -> None:
        save_split(data, folder / "split.npz")

    def _read(self, folder: Path) -> Split:
        return load_split(folder / "split.npz")


class SplitsDataset(FreshDataset[Splits]):
    """Train, val and (where there is one) holdout as an npz file each."""

    def _write(self, data: Splits, folder: Path) -> None:
        for name in ("train", "val", "holdout"):
            split = getattr(data, name)
            if split is not None:
                save_split(split, folder / f"{name}.npz")

    def _read(self, folder: Path) -> Splits:
        holdout = folder / "holdout.npz"
        return Splits(
            train=load_split(folder / "train.npz"),
            val=load_split(folder / "val.npz"),
            holdout=load_split(holdout) if holdout.exists() else None,
        )
