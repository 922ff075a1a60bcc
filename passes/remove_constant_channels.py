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
  4. Channels that stand or fall together (`_linked_channels.py`: depthwise, elementwise operators, a convolution's residual, poolings,
     resizing, padding, concatenations, slices, reshapes that join axes with the channels) are dropped together. Where nothing of a tensor
     is needed one channel is left, which no reader counts on.
What it leaves: channels of model inputs and outputs, of operators that mix channels in other ways, depthwise with a channel multiplier;
constants that add something else at a padded border than inside; duplicates in a concatenation; a network in which a tensor already lies
in NCHW.

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
from tvm_tiny.passes._channel_ranges import channel_ranges, sums_by_class
from tvm_tiny.passes._duplicate_channels import mergeable, merged_weights
from tvm_tiny.passes._linked_channels import channels_of, labels_of, links_of

WHY = Explainer("remove-constant-channels")

_MIXING = frozenset({"conv2d", "dense"})
_OF_TWO = frozenset({"add", "sub", "mul", "maximum", "minimum"})


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
        self.labels = labels_of(graph)
        self.links = {node.var: links_of(graph, node) for node in graph.nodes}
        self.needed = np.zeros(sum(map(len, self.labels.values())), bool)
        self._find_needed()
        self.present = self._with_one_each()
        self.merged = self._duplicates()

    def dropped(self) -> int:
        """Number of channels removed from convolutions and fully connected layers."""
        made = [n.var for n in self.graph.nodes if n.op in _MIXING or n.op == "depthwise_conv2d"]
        return sum(channels_of(self.graph, var) - len(self._kept(var)) for var in made)

    def _kept(self, var: relax.Var) -> np.ndarray:
        """Numbers of the channels of a value that remain."""
        return np.flatnonzero(self.present[self.labels[var]])

    def explain(self) -> None:
        """Tell of every layer with channels of its own what goes and why the rest stays."""
        for node in self.graph.nodes:
            if node.op not in _MIXING and node.op != "depthwise_conv2d":
                continue
            channels, kept = channels_of(self.graph, node.var), self._kept(node.var)
            constant = int(self.ranges[node.var].constant.sum())
            if len(kept) < channels:
                fewer = node.constant(1).nbytes * (channels - len(kept)) // channels
                twice = len(self.merged.get(node.var, {}))
                reason = f"{constant} have one value for every input, {twice} are another's duplicate, the others' weights are zero"
                WHY.accepted(node.name, f"{channels - len(kept)} of {channels} channels removed", reason, bytes=-fewer)
            elif constant:
                reason = "a model output, an operator that mixes channels, or padding of another value needs them"
                WHY.rejected(node.name, f"{constant} constant of {channels} channels removed", reason)
            else:
                WHY.rejected(node.name, f"any of {channels} channels removed", "each takes several values and is read")

    # --- analysis -------------------------------------------------------------------------------------------------------------------

    def _can_drop(self, node: Node) -> bool:
        """The node can be rewritten to produce fewer channels."""
        if node.op in _MIXING:
            return int(node.attrs.get("groups", 1)) == 1 and not any(node.is_constant(i) for i in range(RESIDUAL, len(node.args)))
        if node.op == "concat" and not all(isinstance(a, relax.Var) for a in node.args):
            return False
        return bool(self.links[node.var])

    def _with_one_each(self) -> np.ndarray:
        """What is needed, and of every value nothing of which is the first channel."""
        present = self.needed.copy()
        while empty := [label for label in self.labels.values() if not present[label].any()]:
            for label in empty:
                present[label[0]] = True
        return present

    def _find_needed(self) -> None:
        fixed = [*self.graph.outputs, *self.graph.params, *(n.var for n in self.graph.nodes if not self._can_drop(n))]
        for var in fixed:
            self.needed[self.labels[var]] = True
        before = -1
        while before != (now := int(self.needed.sum())):
            before = now
            for node in reversed(self.graph.nodes):
                self._propagate(node)

    def _propagate(self, node: Node) -> None:
        linked = [arg for arg, _ in self.links[node.var]]
        wanted = self.needed[self.labels[node.var]]
        for index, arg in enumerate(node.args or [node.value]):
            for var in _variables(arg):
                if node.op in _MIXING and index == 0 and int(node.attrs.get("groups", 1)) == 1:
                    self.needed[self.labels[var]] |= self._read(node, wanted)
                elif not any(var.same_as(v) for v in linked):  # else they are needed with the result's
                    self.needed[self.labels[var]] = True

    def _duplicates(self) -> dict[relax.Var, dict[int, int]]:
        """By value: channels that another one takes the place of, {channel: that one}. They are present no longer."""
        found: dict[relax.Var, dict[int, int]] = {}
        for values in self._alike():
            merged = self._merged(values)
            found |= dict.fromkeys(values, merged)
            self.present[self.labels[values[0]][list(merged)]] = False
        return found

    def _alike(self) -> list[list[relax.Var]]:
        """Values of the same channels throughout, all of which stand or fall together."""
        groups: dict[bytes, list[relax.Var]] = {}
        for var, label in self.labels.items():
            groups.setdefault(label.tobytes(), []).append(var)
        count = np.zeros(len(self.needed), int)
        for label in self.labels.values():
            np.add.at(count, label, 1)
        return [values for values in groups.values() if (count[self.labels[values[0]]] == len(values)).all()]

    def _merged(self, values: list[relax.Var]) -> dict[int, int]:
        inside = [n for n in self.graph.nodes if n.var in values]
        if len(inside) < len(values) or not all(self._can_drop(n) for n in inside):
            return {}  # a model input is among them, or something that can't be rewritten
        if any(v.same_as(n.var) for n in inside for v in self.graph.outputs) or any(_constants_of(n) for n in inside):
            return {}
        names = {n.var for n in inside}
        reads = [(n, k) for v in names for n, k in self.graph.consumers.get(v, [])]
        reading = [(n, k) for n, k in reads if n.var not in names or (n.op in _MIXING and k != RESIDUAL)]
        if any(k != 0 for _, k in reading):
            return {}
        makers = [n for n in inside if n.op in _MIXING or n.op == "depthwise_conv2d"]
        return mergeable(makers, [n for n, _ in reading], self._kept(values[0]), lambda n: n.op in _MIXING and self._can_drop(n))

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
        kept = self._kept(node.var)
        if len(kept) == channels_of(self.graph, node.var) and node.op != "strided_slice":
            return None
        if node.op == "depthwise_conv2d":
            constants = [node.constant(1)[:, :, kept], *(node.constant(i)[kept] for i in (2, 3, 4))]
            return self._call(node, new[node.args[0]], constants)
        attrs = dict(node.attrs)
        if node.op == "reshape":
            attrs["shape"] = [*attrs["shape"][:-1], len(kept)]
        if node.op == "strided_slice" and self.links[node.var]:
            before = int((self._kept(node.args[0]) < attrs["begin"][-1]).sum())
            attrs |= {"begin": [*attrs["begin"][:-1], before], "size": [*attrs["size"][:-1], len(kept)]}
        sliced = _constants_of(node)
        args = [relax.const(node.constant(i)[..., kept]) if i in sliced else substitute(a, new) for i, a in enumerate(node.args)]
        return registry.call(f"tiny.{node.op}", *args, **attrs) if node.op else None

    def _mixing(self, node: Node, new: Mapping[relax.Var, relax.Expr]) -> relax.Expr | None:
        x = node.args[0]
        outs, ins = self._kept(node.var), self._kept(x)
        idle = np.flatnonzero(~self.needed[self.labels[x]])  # also where one is left because there must be one
        if len(outs) == channels_of(self.graph, node.var) and len(ins) == channels_of(self.graph, x) and not idle.size:
            return None
        weight, bias, multiplier, shift = (node.constant(i)[outs] for i in (1, 2, 3, 4))
        weight = merged_weights(weight, self.merged.get(x, {}))
        terms = weight[..., idle].astype(np.int64).sum(axis=tuple(range(1, weight.ndim - 1)))
        folded = np.where(self.ranges[x].constant[idle], self.ranges[x].low[idle] - node.attrs["x_zp"], 0)
        weight[..., idle] = 0
        new_bias = bias.astype(np.int64) + terms @ folded
        others = [substitute(a, new) for a in node.args[RESIDUAL:]]
        ins = np.arange(weight.shape[-1]) if int(node.attrs.get("groups", 1)) > 1 else ins
        return self._call(node, new[x], [weight[..., ins], new_bias.astype(np.int32), multiplier, shift], others)

    def _call(self, node: Node, x: relax.Expr, constants: list[np.ndarray], others: Sequence[relax.Expr] = ()) -> relax.Expr:
        arrays = [relax.const(np.ascontiguousarray(c)) for c in constants]
        return registry.call(f"tiny.{node.op}", x, *arrays, *others, **node.attrs)


def _constants_of(node: Node) -> list[int]:
    """Arguments of an elementwise operator that hold a number a channel."""
    if node.op not in _OF_TWO:
        return []
    channels = max((shape[-1] for shape in node.shapes if shape), default=1)
    return [i for i in range(len(node.args)) if node.is_constant(i) and channels > 1 and node.shapes[i][-1:] == (channels,)]


def _variables(expr: relax.Expr) -> list[relax.Var]:
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Tuple):
        return [v for f in expr.fields for v in _variables(f)]
    if isinstance(expr, relax.TupleGetItem):
        return _variables(expr.tuple_value)
    return []
