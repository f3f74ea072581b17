"""Lightning callbacks: a checkpoint after every epoch, and progress. Imported only when a training runs."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, Checkpoint

from pocketpipe.training.module import Training
from pocketpipe.training.progress import EpochProgress


class EpochCheckpoint(Checkpoint):
    """Writes network, optimizer, average and curves at the end of every epoch, whole or not at all.

    A `Checkpoint`, because Lightning calls these after the module's own hook, which completes the curves.
    """

    def __init__(self, file: Path, curves_file: Path) -> None:
        self._file = file
        self._curves_file = curves_file

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called in every process; the first one writes."""
        partial = self._file.with_name(f".{self._file.name}.partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero and isinstance(pl_module, Training):
            os.replace(partial, self._file)
            pl_module.curves.save(self._curves_file)


class PlainFiles(TorchCheckpointIO):
    """Writes a checkpoint where it is to lie: Lightning's own way goes through the folder for temporary files, which
    may be small, or memory. It need not appear whole there, `EpochCheckpoint` sees to that."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """`path`: in a folder that is there."""
        torch.save(checkpoint, path)


class OwnSignals(Callback):
    """Gives SIGTERM back to whoever had it: under Lightning's handler a terminated training exits with code 0."""

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Lightning has taken the signal by now."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)


class ShowProgress(Checkpoint):
    """Moves the bar with every step and tells each epoch's figures."""

    def __init__(self, progress: EpochProgress) -> None:
        self._progress = progress

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Another step is done."""
        self._progress.at(trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Another epoch is done."""
        if isinstance(pl_module, Training):
            self._progress.tell(pl_module.curves)
