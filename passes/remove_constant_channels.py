# SPDX-License-Identifier: Apache-2.0
"""remove-constant-channels: channels that are the same for every input are folded into biases and dropped. Bit-exact.

Where it may stand: after `quantize-to-integer`, before layouts are chosen and functions are lowered.

What it does
  1. Interval analysis (`_channel_ranges.py`): per channel, the least and greatest int8 value any input can produce, by every operator's
     exact arithmetic, over all ways a window meets the border. A channel whose interval is one value is constant.
  2. Need: from the outputs back, which channels any needed value depends on. A convolution or fully connected layer does not need a
     constant input channel it can fold: one that adds the same at every position, since its value is the zero point (which padding reads
     too), or the weights that meet padding add up to zero. A channel with only zero weights to needed outputs is not needed either.
  3. Duplicates: channels made by equal constants throughout are one function of the input; one of them takes over the others' weights in
     every reader, where the sums stay in range.
  4. Channels that stand or fall together (depthwise, additions, also a convolution's residual, pooling, reshapes between them) are
     dropped together.
What it leaves: channels of model inputs and outputs, of operators that mix channels in other ways, depthwise with a channel multiplier;
constants that add something else at a padded border than inside; a network in which a tensor already lies in NCHW.

Why it is exact: the accumulator of every remaining output is the same integer; the dropped terms `w * (v - zero_point)` are in the bias,
and duplicates are one factor of a sum of products.

rewrite:
    x: 8 channels, 3 of them always -128      →      x: 5 channels
    y = tiny.conv2d(x, w[.., 8], bias)               y = tiny.conv2d(x, w[.., 5], bias + Σ w * (-128 - x_zp))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

from tvm_tiny.explain import Explainer
from tvm_tiny.ops import registry
from tvm_tiny.ops.graph import Node, TinyGraph, substitute
from tvm_tiny.ops.residual import ARGUMENT as RESIDUAL
from tvm_tiny.ops.residual import residual_of
from tvm_tiny.passes._channel_ranges import channel_ranges, keeps_channels, sums_by_class
from tvm_tiny.passes._duplicate_channels import mergeable, merged_weights

WHY = Explainer("remove-constant-channels")

_MIXING = frozenset({"conv2d", "dense"})
_CHANNELWISE = frozenset({"depthwise_conv2d", "add", "sub", "mul", "avg_pool2d", "max_pool2d", "mean", "lookup", "requantize", "reshape"})


@tvm.transform.module_pass(opt_level=0, name="remove-constant-channels")
class RemoveConstantChannels:
    """See the module's docstring."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrite `main`."""
        graph = TinyGraph(mod["main"])
        if planar := [n for n in graph.nodes if any(n.attrs.get(k, "NHWC") != "NHWC" for k in ("x_layout", "y_layout"))]:
            # The analysis takes the last axis for the channels.
            WHY.rejected(
                "", "any channel removed", f"{planar[0].name} has its channels in planes (NCHW): this pass stands before layouts are chosen"
            )
            return mod
        removal = _Removal(graph)
        removal.explain()
        if not removal.dropped():
            return mod
        out = tvm.IRModule({"main": removal.rewrite()})
        return out.with_attrs(dict(mod.attrs.items())) if mod.attrs is not None else out


class _Removal:
    """Which channels of which value are kept, and the rewritten function."""

    def __init__(self, graph: TinyGraph) -> None:
        self.graph = graph
        self.ranges = channel_ranges(graph)
        self.group = self._groups()
        self.needed = {root: np.zeros(self._channels(root), bool) for root in set(self.group.values())}
        self._find_needed()
        self.kept = {root: np.flatnonzero(mask) if mask.any() else np.array([0]) for root, mask in self.needed.items()}
        self.merged = {root: self._duplicates(root) for root in self.kept}
        self.kept = {root: np.setdiff1d(kept, list(self.merged[root])) for root, kept in self.kept.items()}

    def dropped(self) -> int:
        """Number of channels removed from convolutions and fully connected layers."""
        total = 0
        for node in self.graph.nodes:
            if node.op in _MIXING or node.op == "depthwise_conv2d":
                total += self._channels(node.var) - len(self.kept[self.group[node.var]])
        return total

    def explain(self) -> None:
        """Tell of every layer with channels of its own what goes and why the rest stays."""
        for node in self.graph.nodes:
            if node.op not in _MIXING and node.op != "depthwise_conv2d":
                continue
            channels, kept = self._channels(node.var), self.kept[self.group[node.var]]
            constant = int(self.ranges[node.var].constant.sum())
            if len(kept) < channels:
                fewer = node.constant(1).nbytes * (channels - len(kept)) // channels
                twice = len(self.merged[self.group[node.var]])
                reason = f"{constant} have one value for every input, {twice} are another's duplicate, the others' weights are zero"
                WHY.accepted(node.name, f"{channels - len(kept)} of {channels} channels removed", reason, bytes=-fewer)
            elif constant:
                reason = "a model output, an operator that mixes channels, or padding of another value needs them"
                WHY.rejected(node.name, f"{constant} constant of {channels} channels removed", reason)
            else:
                WHY.rejected(node.name, f"any of {channels} channels removed", "each takes several values and is read")

    # --- analysis -------------------------------------------------------------------------------------------------------------------

    def _channels(self, var: relax.Var) -> int:
        shape = self.graph.shape(var) if isinstance(var.ty, relax.TensorType) else ()
        return shape[-1] if shape else 1

    def _linked(self, node: Node) -> list[relax.Var]:
        """The arguments whose channels correspond one to one to the result's."""
        if residual_of(node.attrs) is not None:
            return [a for a in node.args[RESIDUAL:] if isinstance(a, relax.Var) and a in self.ranges]
        if node.op not in _CHANNELWISE or (node.op in ("mean", "reshape") and not keeps_channels(self.graph, node)):
            return []
        args = [a for a in node.args if isinstance(a, relax.Var) and a in self.ranges]
        if node.op == "depthwise_conv2d":
            args = args[:1]
        same = all(self._channels(a) == self._channels(node.var) for a in args)
        constants = [a for i, a in enumerate(node.args) if node.is_constant(i)] if node.op in ("add", "sub", "mul") else []
        return args if same and not constants else []

    def _groups(self) -> dict[relax.Var, relax.Var]:
        """Union of values linked channel by channel, each represented by one of them."""
        parent: dict[relax.Var, relax.Var] = {v: v for v in [*self.graph.params, *(n.var for n in self.graph.nodes)]}

        def find(var: relax.Var) -> relax.Var:
            while not parent[var].same_as(var):
                var = parent[var]
            return var

        for node in self.graph.nodes:
            for arg in self._linked(node):
                parent[find(arg)] = find(node.var)
        return {v: find(v) for v in parent}

    def _can_drop(self, node: Node) -> bool:
        """The node can be rewritten to produce fewer channels."""
        if node.op in _MIXING:
            return int(node.attrs.get("groups", 1)) == 1 and not any(node.is_constant(i) for i in range(RESIDUAL, len(node.args)))
        return bool(self._linked(node))

    def _find_needed(self) -> None:
        fixed = [*self.graph.outputs, *self.graph.params, *(n.var for n in self.graph.nodes if not self._can_drop(n))]
        for var in fixed:
            self.needed[self.group[var]][:] = True
        before = -1
        while before != (now := sum(int(m.sum()) for m in self.needed.values())):
            before = now
            for node in reversed(self.graph.nodes):
                self._propagate(node)

    def _propagate(self, node: Node) -> None:
        linked = self._linked(node)
        wanted = self.needed[self.group[node.var]]
        for index, arg in enumerate(node.args or [node.value]):
            for var in _variables(arg):
                if any(var.same_as(v) for v in linked):
                    continue  # the same group: nothing to pass on
                if node.op in _MIXING and index == 0 and int(node.attrs.get("groups", 1)) == 1:
                    self.needed[self.group[var]] |= self._read(node, wanted)
                else:
                    self.needed[self.group[var]][:] = True

    def _duplicates(self, root: relax.Var) -> dict[int, int]:
        """Channels of a group that another one takes the place of: {channel: that one}."""
        inside = [n for n in self.graph.nodes if n.var in self.group and self.group[n.var].same_as(root)]
        if len(inside) < len([v for v, r in self.group.items() if r.same_as(root)]) or not all(self._can_drop(n) for n in inside):
            return {}  # a model input is among them, or something that can't be rewritten
        if any(v.same_as(n.var) for n in inside for v in self.graph.outputs):
            return {}
        names = {n.var for n in inside}
        reads = [(n, k) for v in names for n, k in self.graph.consumers.get(v, [])]
        reading = [(n, k) for n, k in reads if n.var not in names or (n.op in _MIXING and k != RESIDUAL)]
        if any(k != 0 for _, k in reading):
            return {}
        makers = [n for n in inside if n.op in _MIXING or n.op == "depthwise_conv2d"]
        return mergeable(makers, [n for n, _ in reading], self.kept[root], lambda n: n.op in _MIXING and self._can_drop(n))

    def _read(self, node: Node, wanted: np.ndarray) -> np.ndarray:
        """bool (C_in,): channels with a weight towards a wanted output that can't be folded away."""
        weight = node.constant(1)[wanted]
        used = np.any(weight != 0, axis=tuple(range(weight.ndim - 1)))
        return used & ~self._foldable(node, wanted)

    def _foldable(self, node: Node, wanted: np.ndarray) -> np.ndarray:
        """bool (C_in,): constants that add the same to the wanted outputs wherever they stand, at the border too."""
        x = self.ranges[node.args[0]]
        foldable = x.constant & (x.low == node.attrs["x_zp"])
        for channel in np.flatnonzero(x.constant & ~foldable):
            taps = node.constant(1)[wanted][..., channel].astype(np.int64)
            taps = taps.reshape(len(taps), *taps.shape[1:] or (1, 1))
            foldable[channel] = bool((sums_by_class(self.graph, node, taps) == taps.sum(axis=(1, 2))[:, None]).all())
        return foldable

    # --- rewriting ------------------------------------------------------------------------------------------------------------------

    def rewrite(self) -> relax.Function:
        return self.graph.rebuild(self._rewrite_node)

    def _rewrite_node(self, node: Node, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
        if node.op in _MIXING:
            return self._mixing(node, new)
        kept = self.kept[self.group[node.var]] if node.var in self.group else None
        if kept is None or len(kept) == self._channels(node.var):
            return None
        if node.op == "depthwise_conv2d":
            constants = [node.constant(1)[:, :, kept], *(node.constant(i)[kept] for i in (2, 3, 4))]
            return self._call(node, new[node.args[0]], constants)
        if node.op == "reshape":
            return registry.call("tiny.reshape", new[node.args[0]], **{**node.attrs, "shape": [*node.attrs["shape"][:-1], len(kept)]})
        return registry.call(f"tiny.{node.op}", *(substitute(a, new) for a in node.args), **node.attrs)

    def _mixing(self, node: Node, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
        x = node.args[0]
        outs, channels = self.kept[self.group[node.var]], self._channels(x)
        ins = self.kept[self.group[x]] if int(node.attrs.get("groups", 1)) == 1 else np.arange(channels)
        if len(outs) == self._channels(node.var) and len(ins) == channels:
            return None
        weight, bias, multiplier, shift = (node.constant(i)[outs] for i in (1, 2, 3, 4))
        weight = merged_weights(weight, self.merged[self.group[x]] if len(ins) < channels else {})
        gone = np.setdiff1d(np.arange(channels), ins)
        terms = weight[..., gone].astype(np.int64).sum(axis=tuple(range(1, weight.ndim - 1)))
        folded = np.where(self.ranges[x].constant[gone], self.ranges[x].low[gone] - node.attrs["x_zp"], 0)
        new_bias = bias.astype(np.int64) + terms @ folded
        others = [substitute(a, new) for a in node.args[RESIDUAL:]]
        return self._call(node, new[x], [weight[..., ins], new_bias.astype(np.int32), multiplier, shift], others)

    def _call(self, node: Node, x: relax.Expr, constants: list[np.ndarray], others: Sequence[relax.Expr] = ()) -> relax.Expr:
        arrays = [relax.const(np.ascontiguousarray(c)) for c in constants]
        return registry.call(f"tiny.{node.op}", x, *arrays, *others, **node.attrs)


def _variables(expr: relax.Expr) -> list[relax.Var]:
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Tuple):
        return [v for f in expr.fields for v in _variables(f)]
    if isinstance(expr, relax.TupleGetItem):
        return _variables(expr.tuple_value)
    return []
