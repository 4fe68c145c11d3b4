"""Layers of any network computed together for prediction on the CPU: convolution, BatchNorm and activation as one.

Which layers follow each other is seen, not read from names: the network runs once without numbers, and a layer is
joined with what alone reads its result. Modules and weights stay as they are; under a gradient, in training, on a GPU,
in a compiler and in the reference forms the layers run as they were written.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from semask.models.layers.blocks import Conv2dNCHW, SameConvolution
from semask.models.layers.linear import Linear
from semask.models.meta import meta_twin
from semask.ops.convolution import Packed, convolve, pack, packs, pad_channels_last
from semask.ops.linear import NO_ACTIVATION, Activation, by_onednn, is_plain, pays

logger = logging.getLogger(__name__)
Place = tuple[int, int]
"""A tensor in a run: its identity, and how often it was changed in place."""


class Group:
    """A convolution or a linear layer, the norm and the activation that alone read its result, and their weights.

    The weights are joined at the first call, and again when one of them has changed.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, norm: Any | None, activation: nn.Module | None) -> None:
        self.layer, self.norm, self.activation = layer, norm, activation
        self.fused = NO_ACTIVATION if activation is None else known_activation(activation) or NO_ACTIVATION
        self.packed: Packed | None = None
        self._made_of: list[tuple[dict[str, Any], str, Tensor, int]] = []
        # the modules' own classes run them in every other case
        layer.forward = self.run_convolution if isinstance(layer, nn.Conv2d) else self.run_linear  # type: ignore[assignment]
        if norm is not None:
            norm.forward = self.run_norm
        if activation is not None:
            activation.forward = self.run_activation

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "packed": None, "_made_of": []}

    def is_joined(self, x: Tensor) -> bool:
        """Whether a call computes a convolution and what follows it as one."""
        if torch.is_grad_enabled() or x.dtype != torch.float32 or not is_plain(x):
            return False
        return not (self.layer.training or (self.norm is not None and self.norm.training))

    def run_convolution(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o _h _w"]:
        """The whole group."""
        conv = self.layer
        assert isinstance(conv, nn.Conv2d)
        if x.ndim != 4 or not self.is_joined(x):
            return type(conv).forward(conv, x)
        if isinstance(conv, SameConvolution):
            x = pad_channels_last(x, conv.borders(x))
        packed = self.packed
        if packed is None or self._is_stale():
            packed = self._join(conv, x.shape)
        return self._mark(convolve(x, packed, self.fused))

    def run_linear(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        """The whole group."""
        layer = self.layer
        assert isinstance(layer, nn.Linear)
        if torch.is_grad_enabled() or layer.training or not pays(x, layer.weight):
            return type(layer).forward(layer, x)
        return self._mark(by_onednn(x, layer.weight, layer.bias, self.fused))

    def run_norm(self, x: Float[Tensor, "b o h w"]) -> Float[Tensor, "b o h w"]:
        """The norm, unless the convolution held it; timm's have an activation of their own behind it."""
        norm: Any = self.norm
        if not self._has_marked(x):
            return type(norm).forward(norm, x)
        has_more = hasattr(norm, "act") and norm.act is not self.activation
        return norm.act(norm.drop(x)) if has_more else x

    def run_activation(self, x: Tensor) -> Tensor:
        """The activation, unless the layer held it."""
        activation: Any = self.activation
        return x if self._has_marked(x) else type(activation).forward(activation, x)

    def _mark(self, out: Tensor) -> Tensor:
        # the result says itself what was computed: a path around the layer is no danger
        out.joined_by = self  # type: ignore[attr-defined]
        return out

    def _has_marked(self, x: Tensor) -> bool:
        return getattr(x, "joined_by", None) is self

    def _join(self, conv: nn.Conv2d, size: torch.Size) -> Packed:
        """Fold the norm into weight and bias, in float64: γ/√(σ² + ε) · (w·x + b − μ) + β."""
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        sources: list[nn.Module] = [conv]
        if self.norm is not None:
            norm = self.norm
            sources.append(norm)
            scale = (norm.running_var.double() + norm.eps).rsqrt()
            scale = scale if norm.weight is None else scale * norm.weight.detach().double()
            moved = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean
            moved = moved * scale if norm.bias is None else moved * scale + norm.bias.detach().double()
            weight, bias = (weight.double() * scale[:, None, None, None]).float(), moved.float()
        self._made_of = [
            (values, name, value, value._version)
            for module in sources
            for values in (module._parameters, module._buffers)
            for name, value in values.items()
            if value is not None and not value.is_inference()  # which count no changes
        ]
        self.packed = pack(conv, weight, bias, size)
        return self.packed

    def _is_stale(self) -> bool:
        return any(
            values[name] is not value or value._version != version for values, name, value, version in self._made_of
        )


def join_layers(
    network: nn.Module, run: Callable[[Any, Tensor], object], size: tuple[int, int], channels: int
) -> list[Group]:
    """Join layers of a network in place; `run` calls it, or its twin without numbers, on an image of that size [px]."""
    if not packs():
        return []
    with torch.inference_mode(mode=False):  # whose tensors do not count their changes
        chains = _Run(network, run, size, channels).chains()
    modules = dict(network.named_modules())
    groups = []
    for name, module in modules.items():
        if is_plain_layer(module):
            norm, activation = (None if found is None else modules[found] for found in chains.get(name, (None, None)))
            # a linear layer alone has nothing to gain
            if isinstance(module, nn.Conv2d) or activation is not None:
                groups.append(Group(module, norm, activation))
    return groups


def known_activation(module: nn.Module) -> Activation | None:
    """An activation as oneDNN computes it; None: it does not know it."""
    match module:
        case nn.ReLU():
            return Activation("relu")
        case nn.ReLU6():
            return Activation("hardtanh", (0.0, 6.0))
        case nn.SiLU():
            return Activation("swish")
        case nn.Hardswish():
            return Activation("hardswish")
        case nn.GELU(approximate=variant):
            return Activation("gelu", variant=variant)
    # timm's own, which keep `inplace` in place of a variant
    return Activation("gelu", variant="none") if type(module).__name__ == "GELU" else None


def is_plain_layer(module: nn.Module) -> bool:
    """Whether a module is a convolution or a linear layer of torch's own formula, with a weight of its own."""
    if "weight" not in module._parameters or "forward" in vars(module):
        return False
    if isinstance(module, nn.Conv2d):
        own = type(module).forward in (nn.Conv2d.forward, Conv2dNCHW.forward, SameConvolution.forward)
        return own and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) is Linear


def is_foldable(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm with statistics of its own, or timm's with an activation behind it."""
    return isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and module.running_mean is not None


class _Run(TorchFunctionMode):
    """One run of a network's twin without numbers: who makes a tensor, and who reads it."""

    def __init__(
        self, network: nn.Module, run: Callable[[Any, Tensor], object], size: tuple[int, int], channels: int
    ) -> None:
        super().__init__()
        self._kept: list[Tensor] = []  # so that no identity is used twice
        self._reads: dict[Place, int] = defaultdict(int)
        # of every module: for every call, the place of its input or output
        self._inputs: dict[str, list[Place]] = defaultdict(list)
        self._outputs: dict[str, list[Place]] = defaultdict(list)
        self._of_interest: dict[str, nn.Module] = {}
        twin = meta_twin(network).eval()
        for name, module in twin.named_modules():
            if is_plain_layer(module) or is_foldable(module) or known_activation(module) is not None:
                self._of_interest[name] = module
                module.register_forward_pre_hook(self._before(name))
                module.register_forward_hook(self._after(name))
        image = torch.zeros(1, channels, *size, device="meta")
        try:
            with torch.no_grad(), self:
                run(twin, image)
        except (RuntimeError, NotImplementedError, ValueError) as error:  # what needs numbers cannot run
            logger.debug("no layers are joined: %s", error)
            self._outputs.clear()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        read = [_place(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = function(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._kept += made
        if made:  # sizes and flags are no numbers that were read
            for place in read:
                self._reads[place] += 1
        return result

    def chains(self) -> dict[str, tuple[str | None, str | None]]:
        """Of every layer, the norm and the activation that alone read its result."""
        found = {}
        readers = {place: name for name, places in self._inputs.items() for place in places}
        for name, module in self._of_interest.items():
            if not is_plain_layer(module):
                continue
            norm = self._only_reader(name, readers)
            activation = None
            if norm is None or not isinstance(module, nn.Conv2d) or not is_foldable(self._of_interest[norm]):
                norm, activation = None, norm
            elif hasattr(self._of_interest[norm], "act"):
                inner = f"{norm}.act"
                activation = inner if inner in self._of_interest else None
            else:
                activation = self._only_reader(norm, readers)
            if activation is not None and known_activation(self._of_interest[activation]) is None:
                activation = None
            found[name] = norm, activation
        return found

    def _only_reader(self, name: str, readers: dict[Place, str]) -> str | None:
        """The module that reads every result of a module, and nothing else; None: there is none."""
        outputs = self._outputs[name]
        names = {readers.get(place) if self._reads[place] == 1 else None for place in outputs}
        reader = names.pop() if len(names) == 1 else None
        alone = reader is not None and sorted(self._inputs[reader]) == sorted(outputs)
        return reader if alone else None

    def _before(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: self._inputs[name].append(_place(inputs[0]))

    def _after(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _, __, output: self._outputs[name].append(_place(output))


def _place(tensor: Tensor) -> Place:
    return id(tensor), tensor._version
