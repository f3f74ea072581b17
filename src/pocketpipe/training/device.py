"""What a training runs on: the device, and whether bf16 and `torch.compile` pay there."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from pocketpipe.compression.modules import evaluating, no_fast_attention
from pocketpipe.errors import UserError, first_line
from pocketpipe.training.recipe import TrainerSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

BF16_BATCH_MACS = 1e9
"""Forward MACs a batch from which bf16 autocast is faster on CPU. Measured on 2 cores with AMX, batch 64 and 128:
ResNet-8 at 8x8 (0.05e9) fp32 17 ms, bf16 19 ms a step; ResNet-20 at 32x32 (5e9) fp32 164 ms, bf16 95 ms."""

ONE_THREAD_BATCH_MACS = 2e8
"""Forward MACs a batch below which one CPU thread is used. Two are hardly faster (ResNet-8 at 8x8, batch 64: 0.098 s an
epoch instead of 0.121; a GRU on 8 rows: 0.058 instead of 0.053), and wait for each other whenever something else runs
(then 1 to 7 s an epoch). One thread also gives the same bytes on machines with more cores."""

COMPILE_TRAINING_MACS = {"cpu": 5e13, "gpu": 5e15}
"""Forward MACs of a whole training from which `torch.compile` pays: it takes 30-40 s and then saves a tenth to
a third of a step (ResNet-20: 95 -> 84 ms), so the eager training must take minutes."""

ROUNDED_MACS = 25
"""Where layers round what passes through them, a MAC counts as so many in that: ResNet-20 with 4-bit weights and
activations takes 214 s an epoch eager and 103 s compiled, and to compile takes 60 s: an epoch of CIFAR-10 pays it."""


@dataclass(frozen=True)
class Execution:
    """The settings with every `auto` decided: a function of machine and sizes, never of a stopwatch."""

    accelerator: str
    bf16: bool
    compiled: bool
    threads: int | None
    """CPU threads of this process; None = PyTorch's choice."""

    @property
    def facts(self) -> dict[str, str]:
        """For the stage's record."""
        return {
            "accelerator": self.accelerator,
            "precision": "bf16" if self.bf16 else "fp32",
            "compiled": "yes" if self.compiled else "no",
        }


def decide(
    settings: TrainerSettings, example_macs: int, batch_size: int, steps: int, *, rounded: bool = False
) -> Execution:
    """Decide what the settings leave to us, for this process's `batch_size` examples a step.

    `rounded`: whether activations are rounded in the training, which is slow unless it is compiled.
    Raises UserError for a GPU that is not there.
    """
    chosen = accelerator(settings)
    batch_macs = float(example_macs) * batch_size
    bf16 = settings.precision == "bf16"
    if settings.precision == "auto":
        bf16 = _bf16_is_native(chosen) and (chosen == "gpu" or batch_macs >= BF16_BATCH_MACS)
    compiled = settings.compile == "always"
    if settings.compile == "auto":
        compiled = batch_macs * steps * (ROUNDED_MACS if rounded else 1) >= COMPILE_TRAINING_MACS[chosen]
    if compiled and not _has_compiler():
        log.info("torch.compile needs a C++ compiler and none is on PATH: training runs uncompiled")
        compiled = False
    threads = max(1, settings.threads // settings.devices) if settings.threads else None
    if threads is None and chosen == "cpu":
        threads = threads_for(batch_macs)
    return Execution(chosen, bf16, compiled, threads)


def example_macs(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Forward multiply-accumulates of one example, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with evaluating(network), torch.no_grad(), _plain_operators(), counter:
        network(torch.zeros(1, *input_shape))
    return int(counter.get_total_flops()) // 2


@contextmanager
def _plain_operators() -> Iterator[None]:
    """No operators that do several things at once (attention, recurrent layers): PyTorch counts none of these."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False), no_fast_attention():
        yield


def threads_for(batch_macs: float) -> int | None:
    """CPU threads worth having for batches of so many forward MACs; None = PyTorch's choice."""
    return 1 if batch_macs < ONE_THREAD_BATCH_MACS else None


def computed(settings: TrainerSettings, network: nn.Module, compute: Callable[[nn.Module], T]) -> T:
    """`compute(network)` where trainings of one process run: on the first GPU, or the CPU.

    `network` is moved there and back; what is computed must not lie on the GPU. What the GPU's memory does not hold is
    told, and computed on the CPU; so is all where there is no GPU, whatever the settings: other nodes may have one.
    """
    device = _device(settings)
    if device.type == "cpu":
        return compute(network)
    try:
        return compute(network.to(device))
    except torch.OutOfMemoryError as error:
        log.warning("warning: too large for the GPU's memory, computed on the CPU: %s", first_line(error)[:200])
    finally:
        network.cpu()
        torch.cuda.empty_cache()  # for the processes of a training
    return compute(network)


def _device(settings: TrainerSettings) -> torch.device:
    return torch.device("cuda:0" if settings.accelerator != "cpu" and _gpus() else "cpu")


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Use this many threads within the block; None leaves PyTorch's choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def accelerator(settings: TrainerSettings) -> str:
    """cpu or gpu. Raises UserError for a GPU that is not there."""
    there = _gpus()
    if settings.accelerator == "cpu" or (settings.accelerator == "auto" and not there):
        return "cpu"
    if not there:
        raise UserError("trainer.accelerator: 'gpu', but PyTorch sees no GPU here; use cpu or auto")
    if settings.devices > there:
        raise UserError(f"trainer.devices: {settings.devices}, but PyTorch sees {there} GPU(s) here")
    return "gpu"


def _gpus() -> int:
    """Where CUDA cannot be used (an older driver), its devices are counted all the same."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _bf16_is_native(accelerator: str) -> bool:
    if accelerator == "gpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # x86, x86, ARM


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++") if name)
