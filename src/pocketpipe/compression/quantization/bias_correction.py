"""Bias correction: rounding shifts the mean of a layer's outputs; what calibration data shows of it goes off the bias.

Nagel et al. 2019, arXiv 1906.04721, section 4.2 (the empirical form of its appendix D); Finkelstein et al. 2019,
"Fighting Quantization Bias With Bias", arXiv 1906.03193.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pocketpipe.compression.modules import has_torchs_forward
from pocketpipe.compression.passing import AtLayer, Recorder, is_layer, pass_through
from pocketpipe.compression.quantization.folding import norms_after
from pocketpipe.compression.weights import along


def correct_bias(quantized: nn.Module, reference: nn.Module, batches: Sequence[Tensor]) -> None:
    """Let the mean of each channel be that of `reference`, layer by layer in order of execution, in place.

    `quantized` has modules of the same names. The mean over `batches` of prepared inputs (N, ...) and positions is set
    at the bias of each convolution and linear layer or, where it has none, of the BatchNorm that follows it. Left
    alone are layers with neither, and those that are called more than once. Raises ValueError without a batch.
    """
    expected = Recorder(lambda path, module, output: _channel_means(module, output))
    places = _places(reference, batches)
    pass_through(reference, batches, {path: expected.at(path) for path in places})
    pass_through(quantized, batches, {path: _correcting(mean) for path, mean in expected.made.items()})


def _places(reference: nn.Module, batches: Sequence[Tensor]) -> list[str]:
    """Paths of the modules whose bias is corrected."""
    layers = {path: module for path, module in reference.named_modules() if is_layer(module)}
    without = [path for path, layer in layers.items() if layer.bias is None]
    norms = norms_after(reference, tuple(batches[0].shape[1:])) if without and batches else {}
    behind = [norms[path] for path in without if path in norms]
    own = [path for path, layer in layers.items() if layer.bias is not None]
    modules = {path: reference.get_submodule(path) for path in behind}
    return own + [path for path, norm in modules.items() if has_torchs_forward(norm) and norm.bias is not None]


def _correcting(expected: Tensor) -> AtLayer:
    def correct(module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
        error = _channel_means(module, output) - expected.to(output.device)
        bias = module.bias
        assert isinstance(bias, Tensor)
        bias.sub_(error)
        return output - _along_channels(module, output, error)

    return correct


def _axis(module: nn.Module, output: Tensor) -> int:
    return output.dim() - 1 if isinstance(module, nn.Linear) else 1


def _channel_means(module: nn.Module, output: Tensor) -> Tensor:
    """(channels,) mean over everything else."""
    return output.movedim(_axis(module, output), 0).flatten(1).mean(1)


def _along_channels(module: nn.Module, output: Tensor, values: Tensor) -> Tensor:
    return along(values, _axis(module, output), output.dim())
