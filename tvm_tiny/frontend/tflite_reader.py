# SPDX-License-Identifier: Apache-2.0
"""TFLite file → `Graph`, with the structure verified: offsets, indices, vector lengths, constant sizes, shapes that can exist.

Errors are `ModelFormatError` (the file is damaged). What the compiler can't do with a sound file is left to `tflite_check`, so values that
are merely odd (an unknown operator, a dtype without meaning here) pass as they are. Schema: tensorflow/lite/schema/schema.fbs, version 3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tvm_tiny.frontend.flatbuffer import Table, damaged, root
from tvm_tiny.frontend.graph import Graph, Operator, Quantization, Tensor

IDENTIFIER = b"TFL3"
MAX_RANK = 8
MAX_TENSOR_BYTES = 1 << 30

_DTYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 5: "string", 6: "bool", 7: "int16", 8: "complex64", 9: "int8",
    10: "float64", 11: "complex128", 12: "uint64", 13: "resource", 14: "variant", 15: "uint32", 16: "uint16", 17: "int4", 18: "bfloat16",
}  # fmt: skip
_NUMPY = ("float32", "float16", "int32", "uint8", "int64", "bool", "int16", "int8", "float64", "uint64", "uint32", "uint16")

_CONV = (("padding", 0, "i8", 0), ("stride_w", 1, "i32", 0), ("stride_h", 2, "i32", 0), ("activation", 3, "i8", 0),
         ("dilation_w", 4, "i32", 1), ("dilation_h", 5, "i32", 1))  # fmt: skip
_DEPTHWISE = (("padding", 0, "i8", 0), ("stride_w", 1, "i32", 0), ("stride_h", 2, "i32", 0), ("depth_multiplier", 3, "i32", 0),
              ("activation", 4, "i8", 0), ("dilation_w", 5, "i32", 1), ("dilation_h", 6, "i32", 1))  # fmt: skip
_POOL = (("padding", 0, "i8", 0), ("stride_w", 1, "i32", 0), ("stride_h", 2, "i32", 0), ("filter_w", 3, "i32", 0),
         ("filter_h", 4, "i32", 0), ("activation", 5, "i8", 0))  # fmt: skip
_SLICE = (("begin_mask", 0, "i32", 0), ("end_mask", 1, "i32", 0), ("ellipsis_mask", 2, "i32", 0), ("new_axis_mask", 3, "i32", 0),
          ("shrink_axis_mask", 4, "i32", 0), ("offset", 5, "bool", False))  # fmt: skip
_ACTIVATION = (("activation", 0, "i8", 0),)

# kind → (name of the options table, its fields: key, field id in the schema, number kind or "ints", default)
OPTIONS: dict[str, tuple[str, tuple[tuple[str, int, str, Any], ...]]] = {
    "CONV_2D": ("Conv2DOptions", _CONV),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", _DEPTHWISE),
    "FULLY_CONNECTED": (
        "FullyConnectedOptions",
        (("activation", 0, "i8", 0), ("weights_format", 1, "i8", 0), ("keep_num_dims", 2, "bool", False)),
    ),
    "ADD": ("AddOptions", _ACTIVATION),
    "MUL": ("MulOptions", _ACTIVATION),
    "SUB": ("SubOptions", _ACTIVATION),
    "AVERAGE_POOL_2D": ("Pool2DOptions", _POOL),
    "MAX_POOL_2D": ("Pool2DOptions", _POOL),
    **dict.fromkeys(("MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "SUM"), ("ReducerOptions", (("keep_dims", 0, "bool", False),))),
    "BATCH_MATMUL": ("BatchMatMulOptions", (("adj_x", 0, "bool", False), ("adj_y", 1, "bool", False))),
    "DIV": ("DivOptions", _ACTIVATION),
    "GATHER": ("GatherOptions", (("axis", 0, "i32", 0), ("batch_dims", 1, "i32", 0))),
    "MIRROR_PAD": ("MirrorPadOptions", (("mode", 0, "i8", 0),)),
    "PACK": ("PackOptions", (("values_count", 0, "i32", 0), ("axis", 1, "i32", 0))),
    "UNPACK": ("UnpackOptions", (("num", 0, "i32", 0), ("axis", 1, "i32", 0))),
    "SPLIT_V": ("SplitVOptions", (("num_splits", 0, "i32", 0),)),
    "DEPTH_TO_SPACE": ("DepthToSpaceOptions", (("block_size", 0, "i32", 0),)),
    "SPACE_TO_DEPTH": ("SpaceToDepthOptions", (("block_size", 0, "i32", 0),)),
    "TRANSPOSE_CONV": (
        "TransposeConvOptions",
        (("padding", 0, "i8", 0), ("stride_w", 1, "i32", 0), ("stride_h", 2, "i32", 0), ("activation", 3, "i8", 0)),
    ),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", (("align_corners", 2, "bool", False), ("half_pixel_centers", 3, "bool", False))),
    "RESHAPE": ("ReshapeOptions", (("new_shape", 0, "ints", ()),)),
    "CONCATENATION": ("ConcatenationOptions", (("axis", 0, "i32", 0), ("activation", 1, "i8", 0))),
    "RESIZE_NEAREST_NEIGHBOR": (
        "ResizeNearestNeighborOptions",
        (("align_corners", 0, "bool", False), ("half_pixel_centers", 1, "bool", False)),
    ),
    "STRIDED_SLICE": ("StridedSliceOptions", _SLICE),
    "SPLIT": ("SplitOptions", (("num_splits", 0, "i32", 0),)),
    "SQUEEZE": ("SqueezeOptions", (("squeeze_dims", 0, "ints", ()),)),
    "SOFTMAX": ("SoftmaxOptions", (("beta", 0, "f32", 0.0),)),
    "LEAKY_RELU": ("LeakyReluOptions", (("alpha", 0, "f32", 0.0),)),
}


def is_tflite(data: bytes) -> bool:
    """Whether the bytes carry the TFLite file identifier (offset 4)."""
    return data[4:8] == IDENTIFIER


def read_graph(data: bytes) -> Graph:
    """Read and verify the first subgraph of a TFLite file.

    Errors
    ------
    ModelFormatError
        The file is truncated or damaged; nothing outside it was read and no large memory was taken.
    """
    model = root(data, "the model")
    version = model.scalar(0, "u32")
    if version != 3:
        raise damaged(f"schema version {version}, but TFLite files have 3")
    kinds = [_operator_kind(code) for code in model.tables(1, "operator codes")]
    subgraphs = model.tables(2, "subgraphs")
    if not subgraphs:
        raise damaged("it holds no subgraph")
    buffers = [_buffer(table) for table in model.tables(4, "buffers")]
    main = subgraphs[0]
    tensors = _tensors(main, buffers, len(data))
    return Graph(
        tensors=tensors,
        operators=_operators(main, kinds, len(tensors)),
        inputs=_indices(main.ints(1, "graph inputs"), len(tensors), "graph inputs"),
        outputs=_indices(main.ints(2, "graph outputs"), len(tensors), "graph outputs"),
        subgraphs=len(subgraphs),
    )


def _names_of(enum: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


def _operator_kind(code: Table) -> str:
    # Schema 3a moved the code from an int8 to an int32 field; the larger of the two is the code in either generation.
    from tflite.BuiltinOperator import BuiltinOperator

    number = max(code.scalar(0, "i8"), code.scalar(3, "i32"))
    name = _names_of(BuiltinOperator).get(number, f"operator code {number}")
    return f"CUSTOM {code.string(1, 'custom operator code')!r}" if name == "CUSTOM" else name


def _buffer(table: Table) -> np.ndarray:
    if table.scalar(1, "u64") > 1:
        raise damaged(f"{table.what} lies behind the FlatBuffer (a model above 2 GiB), which no microcontroller holds")
    data = table.numbers(0, "u8", f"data of {table.what}")
    return np.empty(0, np.uint8) if data is None else data


def _indices(indices: tuple[int, ...], count: int, what: str, *, optional: bool = False) -> tuple[int, ...]:
    lowest = -1 if optional else 0
    for index in indices:
        if not lowest <= index < count:
            raise damaged(f"{what} name tensor {index}, but there are {count}")
    return indices


def _tensors(main: Table, buffers: list[np.ndarray], file_bytes: int) -> tuple[Tensor, ...]:
    # Buffers may be shared between tensors, but not so that constants outgrow the file many times over.
    budget = 16 * file_bytes + (1 << 20)
    tensors = []
    for index, table in enumerate(main.tables(0, "tensors")):
        tensor = _tensor(table, index, buffers)
        budget -= 0 if tensor.data is None else tensor.data.nbytes
        if budget < 0:
            raise damaged("its constants refer to the same bytes over and over")
        tensors.append(tensor)
    return tuple(tensors)


def _tensor(table: Table, index: int, buffers: list[np.ndarray]) -> Tensor:
    name = table.string(3, f"the name of tensor {index}") or f"tensor_{index}"
    what = f"tensor {index} ({name!r})"
    code = table.scalar(1, "i8")
    if code not in _DTYPES:
        raise damaged(f"{what} has dtype code {code}")
    dtype = _DTYPES[code]
    shape = table.ints(0, f"shape of {what}")
    buffer = table.scalar(2, "u32")
    if buffer >= len(buffers):
        raise damaged(f"{what} names buffer {buffer}, but there are {len(buffers)}")
    _check_shape(what, shape, dtype)
    return Tensor(
        index=index,
        name=name,
        shape=shape,
        dtype=dtype,
        data=_constant(what, shape, dtype, buffers[buffer]),
        quant=_quantization(table, what, shape),
        signature=table.ints(7, f"shape signature of {what}"),
        variable=table.scalar(5, "bool", False),
        sparse=table.has(6),
    )


def _check_shape(what: str, shape: tuple[int, ...], dtype: str) -> None:
    if len(shape) > MAX_RANK:
        raise damaged(f"{what} has {len(shape)} dimensions")
    if any(extent < -1 for extent in shape):
        raise damaged(f"{what} has shape {list(shape)}")
    itemsize = np.dtype(dtype).itemsize if dtype in _NUMPY else 1
    if math.prod(max(extent, 1) for extent in shape) * itemsize > MAX_TENSOR_BYTES:
        raise damaged(f"{what} of shape {list(shape)} would take more than {MAX_TENSOR_BYTES >> 30} GiB")


def _constant(what: str, shape: tuple[int, ...], dtype: str, buffer: np.ndarray) -> np.ndarray | None:
    if buffer.size == 0 or dtype not in _NUMPY:
        return None
    want = math.prod(shape) * np.dtype(dtype).itemsize
    if buffer.size != want:
        raise damaged(f"{what} of shape {list(shape)} and dtype {dtype} needs {want} bytes, its buffer has {buffer.size}")
    return np.frombuffer(buffer, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _quantization(table: Table, what: str, shape: tuple[int, ...]) -> Quantization | None:
    quant = table.table(4, f"quantisation of {what}")
    if quant is None:
        return None
    scale = quant.numbers(2, "f32", f"scales of {what}")
    if scale is None or scale.size == 0:
        return None
    zero_point = quant.numbers(3, "i64", f"zero points of {what}")
    if zero_point is None or zero_point.size == 0:
        zero_point = np.zeros(scale.size, np.int64)
    if zero_point.size == 1:
        zero_point = np.repeat(zero_point, scale.size)
    if zero_point.size != scale.size:
        raise damaged(f"{what} has {scale.size} scales and {zero_point.size} zero points")
    if not np.all(np.isfinite(scale)) or not np.all(scale > 0):
        raise damaged(f"{what} has a scale that is not a positive number")
    axis = quant.scalar(6, "i32")
    if scale.size == 1 or len(shape) == 1:
        axis = 0  # Meaningless there; person_detect of TensorFlow's examples writes 3 on one-dimensional tensors.
    if scale.size > 1 and not (0 <= axis < len(shape) and shape[axis] == scale.size):
        raise damaged(f"{what} of shape {list(shape)} has {scale.size} scales along axis {axis}")
    return Quantization(scale.astype(np.float32), zero_point.astype(np.int64), axis)


def _operators(main: Table, kinds: list[str], tensors: int) -> tuple[Operator, ...]:
    return tuple(_operator(table, index, kinds, tensors) for index, table in enumerate(main.tables(3, "operators")))


def _operator(table: Table, index: int, kinds: list[str], tensors: int) -> Operator:
    code = table.scalar(0, "u32")
    if code >= len(kinds):
        raise damaged(f"operator {index} names operator code {code}, but there are {len(kinds)}")
    what = f"operator {index} ({kinds[code]})"
    return Operator(
        index=index,
        kind=kinds[code],
        inputs=_indices(table.ints(1, f"inputs of {what}"), tensors, f"inputs of {what}", optional=True),
        outputs=_indices(table.ints(2, f"outputs of {what}"), tensors, f"outputs of {what}"),
        options=_options(table, kinds[code], what),
    )


def _options(table: Table, kind: str, what: str) -> dict[str, Any]:
    if kind not in OPTIONS:
        return {}
    from tflite.BuiltinOptions import BuiltinOptions

    name, fields = OPTIONS[kind]
    code = table.scalar(3, "u8")
    if code not in (0, getattr(BuiltinOptions, name)):
        raise damaged(f"{what} carries {_names_of(BuiltinOptions).get(code, f'options {code}')} instead of {name}")
    options = table.table(4, f"options of {what}") if code else None
    if options is None:
        return {key: default for key, _, _, default in fields}
    return {
        key: options.ints(number, f"{key} of {what}") if number_kind == "ints" else options.scalar(number, number_kind, default)
        for key, number, number_kind, default in fields
    }
