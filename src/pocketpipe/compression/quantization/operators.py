"""What a node of a traced network does to numbers on a grid: moves them, clips them, multiplies them, or else."""

from __future__ import annotations

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.padding import _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd, _MaxPoolNd

from pocketpipe.compression.quantization.symbolic import EXAMPLE, UNCHANGED

_MOVING = {
    "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze", "permute",
    "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "ravel", "t", "contiguous", "expand", "expand_as",
    "repeat",
    "repeat_interleave", "tile", "chunk", "split", "unbind", "narrow", "select", "index_select", "getitem",
    "flip", "roll", "detach", "clone", "to", "float", "getattr", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "dropout", "amax", "amin", "max_pool1d", "max_pool2d", "max_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
}  # fmt: skip
_MOVING_MODULES = (
    nn.Flatten, nn.Unflatten, nn.Identity, _DropoutNd, _MaxPoolNd, _AdaptiveMaxPoolNd, _ReflectionPadNd,
    _ReplicationPadNd, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
)  # fmt: skip
_CLIPPING = {
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_max", "clip",
    "clip_",
}  # fmt: skip
_CLIPPING_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
_MULTIPLYING = {
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "bilinear", "scaled_dot_product_attention",
}  # fmt: skip
_MULTIPLYING_MODULES = (_ConvNd, nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase)


def operator_of(node: fx.Node) -> str:
    """The function's or method's name, without a leading underscore: `relu`, `add`; the module's path.

    Empty for what is no call: an argument of `forward` may be called `t`, too.
    """
    if node.op in ("placeholder", "get_attr", "output"):
        return ""
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target)).lstrip("_")
    return str(node.target)


def module_of(node: fx.Node, network: nn.Module) -> nn.Module | None:
    """The module that is called, if one is."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def makes_integers(node: fx.Node) -> bool:
    """Whether it takes numbers for indices: rounded to a grid, they would be others."""
    made = node.meta.get(EXAMPLE)
    return isinstance(made, Tensor) and not made.is_floating_point()


def leads_to_integers(node: fx.Node, network: nn.Module) -> bool:
    """Whether all that reads what it makes takes it for indices."""
    if makes_integers(node):
        return True
    return moves(node, network) and bool(node.users) and all(leads_to_integers(user, network) for user in node.users)


def moves(node: fx.Node, network: nn.Module) -> bool:
    """Whether all numbers that come out have gone in, or are zero."""
    module = module_of(node, network)
    if UNCHANGED in node.meta:
        return True
    if module is not None:
        zeros = isinstance(module, _ConstantPadNd) and module.value == 0
        nearest = isinstance(module, nn.Upsample) and module.mode == "nearest"
        return zeros or nearest or isinstance(module, _MOVING_MODULES)
    name = operator_of(node)
    if name == "pad":
        return not node.kwargs.get("value") and not any(node.args[3:4])
    if name == "interpolate":
        return (node.kwargs.get("mode") or (*node.args[3:4], "nearest")[0]) == "nearest"
    return name in _MOVING


def clips(node: fx.Node, network: nn.Module) -> bool:
    """Whether it only cuts off what is too small or too large."""
    module = module_of(node, network)
    return isinstance(module, _CLIPPING_MODULES) if module is not None else operator_of(node) in _CLIPPING


def multiplies(node: fx.Node, network: nn.Module) -> bool:
    """Whether it sums up products: its inputs' bits are what multipliers have to take."""
    module = module_of(node, network)
    return isinstance(module, _MULTIPLYING_MODULES) if module is not None else operator_of(node) in _MULTIPLYING


def takes_norm(node: fx.Node, norm: fx.Node, network: nn.Module) -> bool:
    """Whether `norm` is a BatchNorm, over the channels that the layer that `node` calls makes."""
    layer, following = module_of(node, network), module_of(norm, network)
    if not isinstance(following, _BatchNorm) or following.running_var is None:
        return False
    if isinstance(layer, _ConvTransposeNd):
        return layer.groups == 1
    if isinstance(layer, nn.Linear):
        return bool(node.meta[EXAMPLE].ndim == 2)  # of more axes BatchNorm takes the second one
    return isinstance(layer, _ConvNd)
