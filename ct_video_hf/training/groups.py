"""Which parameters learn, and how fast: frozen stages and learning rates by depth.

The published code of the study trains with a boundary layer, before which a smaller rate holds;
layer-wise decay (Bao et al., "BEiT", arXiv 2106.08254) lowers the rate from stage to stage.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import CTVideoError

__all__ = ["RatePlan", "freeze_backbone", "freeze_stages", "parameter_groups", "plan_rates"]

#: Prefixes that wrappers (compile, DDP, FSDP) put into parameter names.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "module.")


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "") if wrapper.startswith("_") else name.removeprefix(wrapper)
    return name


def _body(model: nn.Module) -> nn.Module:
    body = getattr(model, "base_model", model)
    if body is model:
        raise CTVideoError(f"{type(model).__name__} has no backbone apart from its head")
    return body


def freeze_backbone(model: nn.Module) -> None:
    """Let only the head of ``model`` learn; frozen batch norms stay in eval mode.

    Raises
    ------
    CTVideoError
        When the model has no backbone apart from its head, or nothing would learn.
    """
    _body(model).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise CTVideoError(
            f"freezing the backbone of {type(model).__name__} leaves nothing to learn"
        )
    model.train(model.training)


def stages_of(model: nn.Module) -> dict[str, int]:
    """The stage of every parameter by its name in ``model``; the head is the last stage.

    Backbones of this package say it themselves. In other models the stages are the entries of the
    largest ``ModuleList``, what stands before it belongs to stage 0 and what follows to the head.
    """
    body = _body(model)
    (prefix,) = (f"{name}." for name, module in model.named_modules() if module is body)
    stages = body.parameter_stages() if hasattr(body, "parameter_stages") else _by_list(body)
    head = max(stages.values()) + 1
    return {
        name: stages[name.removeprefix(prefix)] if name.startswith(prefix) else head
        for name, _ in model.named_parameters()
    }


def _by_list(body: nn.Module) -> dict[str, int]:
    sizes = {
        name: sum(value.numel() for value in module.parameters())
        for name, module in body.named_modules()
        if isinstance(module, nn.ModuleList)
    }
    if not sizes:
        raise CTVideoError(f"{type(body).__name__} has no list of layers to count as stages")
    layers = f"{max(sizes, key=sizes.__getitem__)}."
    names = [name for name, _ in body.named_parameters()]
    inside = [index for index, name in enumerate(names) if name.startswith(layers)]
    last = max(int(names[index].removeprefix(layers).split(".")[0]) for index in inside)
    stages = {}
    for index, name in enumerate(names):
        if name.startswith(layers):
            stages[name] = int(name.removeprefix(layers).split(".")[0])
        else:
            stages[name] = 0 if index < inside[0] else last
    return stages


def freeze_stages(model: nn.Module, count: int) -> None:
    """Freeze the first ``count`` stages of a classifier's backbone, the stem or embedding included.

    Raises
    ------
    CTVideoError
        When the backbone has fewer stages.
    """
    stages = stages_of(model)
    head = max(stages.values())
    if not 0 <= count <= head:
        raise CTVideoError(
            f"{count} stages cannot be frozen: the backbone of {type(model).__name__} has {head}, "
            "the stem among them"
        )
    for name, parameter in model.named_parameters():
        if stages[name] < count:
            parameter.requires_grad_(False)
    model.train(model.training)


@dataclass(frozen=True)
class RatePlan:
    """By parameter name: the factor on the learning rate, and who takes weight decay."""

    factors: dict[str, float]
    decaying: frozenset[str]


def plan_rates(
    model: nn.Module,
    *,
    layer_decay: float | None = None,
    boundary: str | None = None,
    boundary_factor: float = 0.1,
    decay_all: bool = False,
) -> RatePlan:
    """Plan the groups of :func:`parameter_groups` on a model that nothing wraps yet.

    Raises
    ------
    CTVideoError
        For factors outside 0..1, both ways at once, or a boundary that names no parameter.
    """
    if layer_decay is not None and boundary is not None:
        raise CTVideoError("layer_decay and boundary are two ways to do one thing, choose one")
    for name, value in (("layer_decay", layer_decay), ("boundary_factor", boundary_factor)):
        if value is not None and not 0 <= value <= 1:
            raise CTVideoError(f"{name} is {value}; 0 to 1 is expected")
    names = [name for name, _ in model.named_parameters()]
    factors = dict.fromkeys(names, 1.0)
    if layer_decay is not None:
        stages = stages_of(model)
        head = max(stages.values())
        factors = {name: float(layer_decay ** (head - stages[name])) for name in names}
    elif boundary is not None:
        first = _first_of(boundary, names, model)
        factors = {name: 1.0 if i >= first else boundary_factor for i, name in enumerate(names)}
    decaying = {
        name
        for name, value in model.named_parameters()
        if decay_all or (value.ndim > 1 and name.rpartition(".")[2].startswith("weight"))
    }
    return RatePlan(factors, frozenset(decaying))


def _first_of(boundary: str, names: list[str], model: nn.Module) -> int:
    wanted = [boundary, f"{getattr(model, 'base_model_prefix', '')}.{boundary}"]
    for index, name in enumerate(names):
        if any(name == start or name.startswith(f"{start}.") for start in wanted):
            return index
    depth = 3 if any(name.count(".") > 3 for name in names) else 1
    known = dict.fromkeys(".".join(name.split(".")[:depth]) for name in names)
    raise CTVideoError(
        f"boundary {boundary!r} names no layer of {type(model).__name__}; layers in order: "
        f"{', '.join(known)}"
    )


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    layer_decay: float | None = None,
    boundary: str | None = None,
    boundary_factor: float = 0.1,
    decay_all: bool = False,
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer, highest learning rate first.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier with ``base_model``; frozen parameters are left out.
    lr : float
        Learning rate of the head.
    weight_decay : float
        Of the weights of layers; biases, norms, tokens and position embeddings have none.
    layer_decay : float, optional
        Each stage learns at this factor times the rate of the next one; the head learns at ``lr``.
    boundary : str, optional
        Name of a layer, such as ``classifier`` or ``backbone.blocks.4``: what stands before it
        learns at ``boundary_factor`` times ``lr``.
    boundary_factor : float
        0 to 1.
    decay_all : bool
        Decay every parameter, as ``torch.optim.Adam(weight_decay=...)`` of the published code did.

    Returns
    -------
    list of dict
        ``params``, ``lr`` and ``weight_decay`` of each group.

    Raises
    ------
    CTVideoError
        See :func:`plan_rates`.
    """
    plan = plan_rates(
        model,
        layer_decay=layer_decay,
        boundary=boundary,
        boundary_factor=boundary_factor,
        decay_all=decay_all,
    )
    return groups_by_plan(model.named_parameters(), plan, lr, weight_decay)


def groups_by_plan(
    parameters: Iterable[tuple[str, torch.Tensor]], plan: RatePlan, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups of named parameters, of a wrapped model too, see :func:`parameter_groups`."""
    groups: dict[tuple[float, bool], list[torch.Tensor]] = {}
    for name, value in parameters:
        if value.requires_grad:
            name = _plain(name)
            groups.setdefault((plan.factors[name], name in plan.decaying), []).append(value)
    return [
        {"params": values, "lr": lr * factor, "weight_decay": weight_decay if decays else 0.0}
        for (factor, decays), values in sorted(groups.items(), key=lambda item: -item[0][0])
    ]
