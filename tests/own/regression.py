"""A user's own regression: how far diabetes goes in a year, from ten numbers of 442 patients (Efron 2004)."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import nn

from pocketpipe.task import Preprocessing, Split, Splits, Task

CENTRE, SPREAD = 152.0, 77.0
"""Of the progression: what is learned is (progression - centre) / spread."""


class Diabetes(Task):
    """Rows (10,) float32, targets (N, 1) float32; the metric is the mean absolute error in spreads."""

    input_shape = (10,)
    labels = ("progression",)
    preprocessing = Preprocessing(scale=1 / 0.0476)  # each column has this standard deviation
    metric_name = "absolute_error"
    higher_is_better = False

    def source_digest(self) -> str:
        return hashlib.sha256(b"scikit-learn's diabetes").hexdigest()

    def load(self, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        """Test is the same for every seed, val is drawn by it."""
        rows, progression = load_diabetes(return_X_y=True)
        targets = ((progression - CENTRE) / SPREAD).astype(np.float32)[:, None]
        patients = Split("442 patients", rows.astype(np.float32), targets)
        order = np.random.default_rng(0).permutation(len(patients))
        test, rest = order[:88], np.random.default_rng(seed).permutation(order[88:])
        splits = Splits(
            patients.take(rest[35:], f"train, 319 of 442 patients, seed {seed}"),
            patients.take(rest[:35], f"val, 35 of 442 patients, seed {seed}"),
        )
        return splits, patients.take(test, "test, 88 of 442 patients")

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
        """Mean squared error; there are no classes to smooth."""
        return nn.functional.mse_loss(outputs, targets)

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.abs(outputs - targets).mean(1)

    def metric_by_class(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Mild and severe courses."""
        severe = targets[:, 0] > 0
        parts = {"mild": ~severe, "severe": severe}
        return {name: float(self.scores(outputs[part], targets[part]).mean()) for name, part in parts.items()}

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> float:
        """Within a tenth of a spread."""
        return float((np.abs(outputs - reference).max(1) < 0.1).mean())


def build(data_root: Path) -> Diabetes:
    """The task; nothing is read from `data_root`."""
    return Diabetes()


def layers(input_shape: tuple[int, ...], outputs: int, *, hidden: int = 32) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(input_shape[0], hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )
