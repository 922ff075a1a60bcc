# SPDX-License-Identifier: Apache-2.0
"""Samples from files and at random; every mismatch is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tvm_tiny.cli.inputs import make_samples
from tvm_tiny.errors import InputError


@dataclass(frozen=True)
class Tensor:
    """An input as the CLI sees it."""

    name: str
    c_name: str
    shape: tuple[int, ...]
    dtype: str


IMAGE = Tensor("serving:0", "serving_0", (1, 4, 4, 1), "int8")
STATE = Tensor("state:0", "state_0", (1, 3), "float32")


def save(folder: Path, **arrays: np.ndarray) -> Path:
    """An .npz of `arrays`."""
    path = folder / "x.npz"
    np.savez(path, **arrays)
    return path


def test_random_is_a_function_of_the_seed_and_spans_the_dtype() -> None:
    one, again, other = (make_samples(None, [IMAGE, STATE], 50, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one[7]["serving:0"], again[7]["serving:0"])
    assert not np.array_equal(one[7]["serving:0"], other[7]["serving:0"])
    values = np.stack([s["serving:0"] for s in one])
    assert (values.dtype, values.min(), values.max()) == (np.int8, -128, 127)
    assert one[0]["state:0"].dtype == np.float32


@pytest.mark.parametrize("shape", [(1, 4, 4, 1), (5, 4, 4, 1), (5, 1, 4, 4, 1)])
def test_one_or_several_samples(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.arange(np.prod(shape), dtype=np.int8).reshape(shape)
    np.save(tmp_path / "x.npy", array)
    samples = make_samples(tmp_path / "x.npy", [IMAGE], 3, 0)
    assert len(samples) == min(3, array.size // 16)
    np.testing.assert_array_equal(samples[-1]["serving:0"].ravel(), array.ravel()[16 * (len(samples) - 1) :][:16])


@pytest.mark.parametrize("keys", [("serving:0", "state:0"), ("serving_0", "state_0")])
def test_arrays_by_either_name(keys: tuple[str, str], tmp_path: Path) -> None:
    path = save(tmp_path, **{keys[0]: np.zeros((2, 4, 4, 1), np.int8), keys[1]: np.ones((2, 3), np.float32)})
    samples = make_samples(path, [IMAGE, STATE], 9, 0)
    assert [set(s) for s in samples] == [{"serving:0", "state:0"}] * 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((1, 4, 4, 1), np.uint8)}, "input serving:0 is int8, the array is uint8"),
        ({"a": np.zeros((4, 4, 2), np.int8)}, r"input serving:0 has shape \(1, 4, 4, 1\), the array \(4, 4, 2\)"),
        ({"a": np.zeros(1, np.int8), "b": np.zeros(1, np.int8)}, "no array for serving:0"),
    ],
)
def test_mismatches_are_named(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_samples(save(tmp_path, **arrays), [IMAGE], 1, 0)
    assert caught.value.remedy


def test_different_numbers_of_samples(tmp_path: Path) -> None:
    path = save(tmp_path, serving_0=np.zeros((2, 4, 4, 1), np.int8), state_0=np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match="different numbers"):
        make_samples(path, [IMAGE, STATE], 1, 0)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"text"])
def test_no_arrays(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no arrays can be read"):
        make_samples(path, [IMAGE], 1, 0)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        make_samples(tmp_path / "none.npy", [IMAGE], 1, 0)
