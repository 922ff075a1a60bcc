# SPDX-License-Identifier: Apache-2.0
"""Layers as loop nests over packed operands, tiled and reordered by TVM's schedule primitives, building blocks inside."""
