"""The network's operations, recorded once for one clip shape and rewritten for a CPU.

What PyTorch runs one operation at a time is recorded (``torch.export``) and rewritten to the same
function: batch norms become part of the convolution before them, activations and residual sums are
written by the convolution itself, convolutions and matrix products always go to oneDNN with weights
laid out for it beforehand (PyTorch leaves some of them to ``slow_conv3d``), attention is computed
without its matrix in memory, constants are computed once. In float32 the results differ from the
eager network's by rounding only.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from .fast_attention import Attention, PackedAttention
from .fast_weights import ConvolutionWeights, LinearWeights, PackedConvolution, PackedLinear

__all__ = ["fast_graph"]

aten = torch.ops.aten

_IN_PLACE = {
    aten.relu_.default: aten.relu.default,
    aten.add_.Tensor: aten.add.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
    aten.leaky_relu_.default: aten.leaky_relu.default,
    aten.hardtanh_.default: aten.hardtanh.default,
    aten.silu_.default: aten.silu.default,
}
#: Elementwise operations that may write over an operand that nobody needs any more.
_OVERWRITING = {
    aten.relu.default: aten.relu_.default,
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.leaky_relu.default: aten.leaky_relu_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.silu.default: aten.silu_.default,
}
#: Operations whose result is a tensor of its own, not a view of an operand.
_FRESH = frozenset(
    {
        aten.relu.default,
        aten.add.Tensor,
        aten.mul.Tensor,
        aten.leaky_relu.default,
        aten.sigmoid.default,
        aten.silu.default,
        aten.gelu.default,
        aten.conv3d.default,
        aten.conv2d.default,
        aten.linear.default,
        aten.matmul.default,
        aten.bmm.default,
        aten.batch_norm.default,
        aten.group_norm.default,
        aten.layer_norm.default,
        aten.max_pool3d.default,
        aten.avg_pool3d.default,
        aten.cat.default,
        aten.softmax.int,
    }
)
#: Operations whose result depends on no value of their operand.
_FILLED = frozenset({aten.new_zeros.default, aten.new_ones.default, aten.new_full.default})
#: What a CPU does in float32 only.
_FLOAT32_ONLY = (aten.avg_pool3d.default,)
_CONVOLUTIONS = (aten.conv3d.default, aten.conv2d.default)


def fast_graph(
    network: nn.Module,
    clip: torch.Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    widen: bool = True,
) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Record ``network`` for clips like ``clip`` and rewrite it for a CPU.

    Parameters
    ----------
    network : torch.nn.Module
        In eval mode, on the CPU, in float32; takes one tensor, gives a tuple of tensors. It is left
        as it is, and shares no memory with the result.
    clip : torch.Tensor
        An input of the shape that the result will take.
    dtype : torch.dtype
        float32, or bfloat16 for weights and activations (sums stay in float32).
    widen : bool
        Give float32 whatever ``dtype`` is; otherwise what the network ends in, as for a part of a
        network that another recorded part goes on from.

    Returns
    -------
    callable
        clip -> tuple of tensors, for clips of that shape.
    """
    with torch.no_grad():
        module = torch.export.export(network, (clip,), strict=False).module()
        rewriter = _Rewriter(module)
        rewriter.drop_what_does_nothing()
        rewriter.fold_constants()
        rewriter.fold_batch_norms()
        rewriter.merge_attention(dtype)
        rewriter.cast(dtype)
        rewriter.fuse_convolutions()
        rewriter.fuse_linears()
        rewriter.overwrite_dead_operands()
        return _Runner(rewriter.finish(), dtype, widen)


class _Runner:
    def __init__(self, module: fx.GraphModule, dtype: torch.dtype, widen: bool) -> None:
        self.module = module
        self.dtype = dtype
        self.widen = widen

    def __call__(self, clip: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            parts = self.module(clip.to(self.dtype))
            return tuple(part.float() for part in parts) if self.widen else tuple(parts)


class _Rewriter:
    """Changes of a recorded graph; each method is one kind."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.graph = module.graph
        self.count = 0
        self.ordered = True

    # ---- parts -----------------------------------------------------------------------------------

    def nodes(self, *targets: Any) -> list[fx.Node]:
        """Calls of ``targets``, in order."""
        return [n for n in self.graph.nodes if n.op == "call_function" and n.target in targets]

    def value(self, node: Any) -> Any:
        """The tensor of a ``get_attr`` node; None for everything else."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        return operator.attrgetter(node.target)(self.module)

    def constant(self, value: Any, before: fx.Node) -> fx.Node:
        """A node for ``value`` (tensor or packed weights)."""
        name = f"_fast_{self.count}"
        self.count += 1
        if isinstance(value, torch.Tensor):
            self.module.register_buffer(name, value.detach())
        else:
            setattr(self.module, name, value)
        with self.graph.inserting_before(before):
            return self.graph.create_node("get_attr", name)

    def replace(self, node: fx.Node, target: Any, args: tuple, kwargs: dict | None = None) -> None:
        """Put a call of ``target`` in the place of ``node``."""
        with self.graph.inserting_before(node):
            new = self.graph.call_function(target, args, kwargs or {})
        new.meta["val"] = node.meta["val"]
        new.meta["fresh"] = True
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)

    def only_use(self, node: Any, *targets: Any) -> bool:
        """Whether ``node`` is a call of one of ``targets`` whose result is used once."""
        return (
            isinstance(node, fx.Node)
            and node.op == "call_function"
            and node.target in targets
            and len(node.users) == 1
        )

    # ---- changes ---------------------------------------------------------------------------------

    def drop_what_does_nothing(self) -> None:
        """Dropout, checks, and operations in place, which become operations with a result."""
        for node in list(self.graph.nodes):
            if node.op == "call_module" and not node.users:
                self.graph.erase_node(node)
        for node in self.nodes(*_IN_PLACE):
            self._give_result(node)
        for node in self.nodes(aten.dropout.default, aten.to.dtype, aten.lift_fresh_copy.default):
            if node.target is aten.to.dtype and node.args[1] != torch.float32:
                continue
            node.replace_all_uses_with(node.args[0])
            self.graph.erase_node(node)
        self.clean()

    def _give_result(self, node: fx.Node) -> None:
        """What follows an operation in place sees its result; one seen through views stays."""
        changed, following = node.args[0], False
        if changed.op != "call_function" or _is_view(changed):
            return
        if any(_is_view(user) and user is not node for user in changed.users):
            return
        for user in self.graph.nodes:
            if user is node:
                following = True
            elif following and user in changed.users:
                user.replace_input_with(changed, node)
        node.target = _IN_PLACE[node.target]

    def clean(self) -> None:
        """Remove calls whose result nobody uses."""
        for node in reversed(list(self.graph.nodes)):
            checks = node.op == "call_function" and "assert" in str(node.target)
            idle = node.op in ("call_function", "get_attr") and not _writes(node)
            if not node.users and (checks or idle):
                self.graph.erase_node(node)

    def fold_constants(self) -> None:
        """Compute once what depends on no clip, such as the masks of shifted windows."""
        known: dict[fx.Node, Any] = {}
        for node in self.graph.nodes:
            if node.op == "get_attr":
                known[node] = self.value(node)
            elif node.target in _FILLED:
                like = torch.empty(0, dtype=node.args[0].meta["val"].dtype)
                known[node] = node.target(like, *node.args[1:])
            elif node.op == "call_function" and all(n in known for n in node.all_input_nodes):
                args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
                known[node] = node.target(*args, **kwargs)
        for node, value in known.items():
            if node.op == "get_attr" or not isinstance(value, torch.Tensor):
                continue
            users = [user for user in node.users if user not in known]
            if users:
                constant = self.constant(value.clone(), node)
                for user in users:
                    user.replace_input_with(node, constant)
        for node in reversed(list(known)):
            if node.op == "call_function" and not node.users:
                self.graph.erase_node(node)
        self.clean()
        # Then the order of reading matters, and no call may move or write elsewhere.
        self.ordered = any(_writes(node) for node in self.graph.nodes)

    def fold_batch_norms(self) -> None:
        """A batch norm after a convolution scales its weights and shifts its result."""
        for node in self.nodes(aten.batch_norm.default):
            convolution = node.args[0]
            weight, bias, mean, variance = (self.value(arg) for arg in node.args[1:5])
            if (
                not self.only_use(convolution, *_CONVOLUTIONS)
                or self.value(convolution.args[1]) is None
                or node.args[5]
                or mean is None
            ):
                continue
            scale = (variance.double() + node.args[7]).rsqrt()
            if weight is not None:
                scale = scale * weight.double()
            kernel = self.value(convolution.args[1]).double()
            old = self.value(convolution.args[2]) if len(convolution.args) > 2 else None
            shift = -mean.double() if old is None else old.double() - mean.double()
            shift = shift * scale if bias is None else shift * scale + bias.double()
            kernel = kernel * scale.view(-1, *[1] * (kernel.ndim - 1))
            args = list(convolution.args) + [None] * (3 - len(convolution.args))
            args[1] = self.constant(kernel.float(), convolution)
            args[2] = self.constant(shift.float(), convolution)
            convolution.args = tuple(args)
            node.replace_all_uses_with(convolution)
            self.graph.erase_node(node)
        self.clean()

    def merge_attention(self, dtype: torch.dtype) -> None:
        """softmax(q k + bias) v without the matrix of weights in memory."""
        for node in [] if self.ordered else self.nodes(aten.matmul.default):
            found = Attention.ending_in(node, self.value)
            if found is not None:
                packed = self.constant(PackedAttention(found, dtype), node)
                self.replace(node, _call, (packed, found.queries, found.keys, found.values))
        self.clean()

    def cast(self, dtype: torch.dtype) -> None:
        """Let every constant have ``dtype``."""
        for node in list(self.graph.nodes):
            value = self.value(node)
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                new = self.constant(value.to(dtype), node)
                node.replace_all_uses_with(new)
                self.graph.erase_node(node)
        if dtype == torch.float32:
            return
        for node in self.nodes(*_FLOAT32_ONLY):
            with self.graph.inserting_before(node):
                wide = self.graph.call_function(aten.to.dtype, (node.args[0], torch.float32))
            with self.graph.inserting_after(node):
                narrow = self.graph.call_function(aten.to.dtype, (node, dtype))
            node.replace_all_uses_with(narrow)
            narrow.args = (node, dtype)
            node.args = (wide, *node.args[1:])
            narrow.meta["val"] = node.meta["val"]

    def fuse_convolutions(self) -> None:
        """Convolutions by oneDNN, which also add the shortcut and cut off below zero."""
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        for node in self.nodes(*_CONVOLUTIONS):
            self._pack_convolution(node, order)
        self.clean()

    def _pack_convolution(self, node: fx.Node, order: dict[fx.Node, int]) -> None:
        weights = ConvolutionWeights.of(node, self.value, node.args[0].meta["val"].shape)
        if weights is None:
            return
        last, inputs, relu = node, (node.args[0],), False
        following = self._following(node)
        if following is not None and _plain_sum(following):
            other = following.args[1] if following.args[0] is node else following.args[0]
            earlier = order.get(other, len(order)) < order[node]
            if earlier and _same_shape(other, node):
                last, inputs = following, (node.args[0], other)
                following = self._following(last)
        if following is not None and following.target is aten.relu.default:
            last, relu = following, True
        new = self._call_packed(PackedConvolution(weights, relu), inputs, node, last)
        order[new] = order[last]

    def _following(self, node: fx.Node) -> fx.Node | None:
        """The only user of ``node``, where calls may move there."""
        return next(iter(node.users)) if len(node.users) == 1 and not self.ordered else None

    def _call_packed(self, packed: Any, inputs: tuple, like: fx.Node, last: fx.Node) -> fx.Node:
        """Put a call of ``packed`` with a result like ``like``'s in the place of ``last``."""
        constant = self.constant(packed, last)
        with self.graph.inserting_before(last):
            new = self.graph.call_function(_call, (constant, *inputs))
        new.meta = {"val": like.meta["val"], "fresh": True}
        last.replace_all_uses_with(new)
        return new

    def _dead_after(self, node: fx.Node, user: fx.Node) -> bool:
        """Whether ``node`` is a tensor of its own that nothing reads after ``user``."""
        if not _fresh(node) or any(_is_view(other) for other in node.users):
            return False
        following = iter(self.graph.nodes)
        return user in following and not any(other in node.users for other in following)

    def fuse_linears(self) -> None:
        """Linear layers by oneDNN with their GELU."""
        for node in self.nodes(aten.linear.default):
            weights = LinearWeights.of(node, self.value)
            if weights is None:
                continue
            following, gelu, last = self._following(node), None, node
            if following is not None and following.target is aten.gelu.default:
                gelu, last = following.kwargs.get("approximate", "none"), following
            shape = node.args[0].meta["val"].shape
            packed = PackedLinear(weights, gelu, math.prod(shape[:-1]))
            self._call_packed(packed, (node.args[0],), node, last)
        self.clean()

    def overwrite_dead_operands(self) -> None:
        """Sums and elementwise operations write over an operand that is needed no more."""
        if self.ordered:
            return
        for node in self.nodes(*_OVERWRITING):
            first = node.args[0]
            if _same_shape(first, node) and self._dead_after(first, node):
                node.meta["fresh"] = True
                node.target = _OVERWRITING[node.target]
        for node in self.nodes(_call):
            if len(node.args) == 3:
                constant, video, shortcut = node.args
                overwrite = shortcut is not video and self._dead_after(shortcut, node)
                self.value(constant).overwrite = overwrite

    def finish(self) -> fx.GraphModule:
        """The module with its new graph and without what it no longer uses."""
        self.graph.lint()
        kept = {node.target for node in self.graph.nodes if node.op == "get_attr"}
        root = nn.Module()
        for name in kept:
            value = operator.attrgetter(name)(self.module)
            plain = name.replace(".", "_")
            for node in self.graph.nodes:
                if node.op == "get_attr" and node.target == name:
                    node.target = plain
            if isinstance(value, torch.Tensor):
                root.register_buffer(plain, value)
            else:
                setattr(root, plain, value)
        self.graph.set_codegen(fx.graph.CodeGen())
        return fx.GraphModule(root, self.graph)


def _call(packed: Any, *tensors: torch.Tensor) -> torch.Tensor:
    return packed(*tensors)


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _is_view(node: fx.Node) -> bool:
    """Whether a call may return memory of its operand."""
    if node.op != "call_function" or node.target is _call:
        return False
    if node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    aliases = schema is None or any(r.alias_info is not None for r in schema.returns)
    maybe = node.target in (aten.contiguous.default, aten.reshape.default, aten.to.dtype)
    return aliases or maybe


def _fresh(node: Any) -> bool:
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return False
    return node.target in _FRESH or node.meta.get("fresh", False)


def _plain_sum(node: fx.Node) -> bool:
    return (
        node.target is aten.add.Tensor
        and not node.kwargs
        and len(node.args) == 2
        and all(isinstance(arg, fx.Node) for arg in node.args)
    )


def _same_shape(one: Any, other: Any) -> bool:
    found = [getattr(n, "meta", {}).get("val") for n in (one, other)]
    return all(v is not None for v in found) and found[0].shape == found[1].shape
