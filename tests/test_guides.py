# SPDX-License-Identifier: Apache-2.0
"""The templates of CONTRIBUTING.md work as they stand: each is saved, imported and used as its guide says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.support.shared import ROOT
from tvm_tiny.boards import load_boards

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
X = relax.TensorType((1, 4, 4, 3), "int8")


def template(name: str) -> str:
    """The code block of CONTRIBUTING.md under the marker `name`."""
    found = re.search(rf"<!-- template: {name} -->\n```\w+\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None, f"CONTRIBUTING.md has no template {name}"
    return found.group(1)


def load_template(name: str, folder: Path) -> ModuleType:
    """The Python template `name` as an imported module."""
    path = folder / f"template_{name}.py"
    path.write_text(template(name), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def op(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The operator template, registered once."""
    return load_template("op", tmp_path_factory.mktemp("op"))


@pytest.mark.parametrize("guide", ["an operator", "a pass", "a schedule rule", "a board"])
def test_a_guide_is_six_bullets_and_a_template(guide: str) -> None:
    section = re.search(rf"## Add {guide}\n(.*?)(?=\n## |\Z)", GUIDE, re.DOTALL).group(1)
    assert re.findall(r"^(\d)\. ", section, re.MULTILINE) == list("123456")
    assert section.count("<!-- template:") == 1


def test_op(op: ModuleType, rng: np.random.Generator) -> None:
    x = rng.integers(-128, 128, (1, 4, 4, 3), np.int8)
    func = op.INVERT.primfunc([((1, 4, 4, 3), "int8")], {})
    y = tvm.runtime.empty(x.shape, "int8")
    tvm.compile(func, target="llvm")(tvm.runtime.tensor(x), y)
    np.testing.assert_array_equal(y.numpy(), op.INVERT.numpy(x))
    np.testing.assert_array_equal(y.numpy(), -1 - x)


def test_pass(op: ModuleType, tmp_path: Path) -> None:
    from tvm_tiny.ops.registry import call

    def module(times: int) -> tvm.IRModule:
        builder = relax.BlockBuilder()
        value = relax.Var("x", X)
        with builder.function("main", [value]):
            with builder.dataflow():
                for _ in range(times):
                    value = builder.emit(call("tiny.invert", value))
                out = builder.emit_output(value)
            builder.emit_func_output(out)
        return builder.get()

    remove = load_template("pass", tmp_path).RemoveDoubleInvert()
    sequence = tvm.ir.transform.Sequential([remove, relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()])
    assert sequence(module(3)).script().count("tiny.invert") == 1
    assert sequence(module(1)).script().count("tiny.invert") == 1


def test_schedule(op: ModuleType, tmp_path: Path, rng: np.random.Generator) -> None:
    from tvm_tiny.target import parse_target

    rule = load_template("schedule", tmp_path)
    func = op.INVERT.primfunc([((1, 4, 4, 3), "int8")], {})
    target = parse_target("c -mcpu=cortex-m7")
    assert rule.apply(func, target, False) is None, "a function that lower-ops did not annotate is no rule's"
    func = func.with_attrs({"tiny.op": "tiny.invert", "tiny.attrs": "{}", "tiny.constants": {}})
    choices = [rule.apply(func, target, False), *rule.apply(func, target, True)]
    x = rng.integers(-128, 128, (1, 4, 4, 3), np.int8)
    for sch in choices:
        y = tvm.runtime.empty(x.shape, "int8")
        plain = sch.mod["main"].with_attr("global_symbol", "main")
        for key in [k for k in plain.attrs.keys() if k.startswith("tiny.")]:
            plain = plain.without_attr(key)
        tvm.compile(plain, target="llvm")(tvm.runtime.tensor(x), y)
        np.testing.assert_array_equal(y.numpy(), op.INVERT.numpy(x))


def test_board(tmp_path: Path) -> None:
    path = tmp_path / "boards.toml"
    path.write_text(template("board"), encoding="utf-8")
    board = load_boards(path)["my_m4"]
    assert (board.mcpu, board.limits.flash, board.limits.arena) == ("cortex-m4", 256 * 1024, 64 * 1024)
