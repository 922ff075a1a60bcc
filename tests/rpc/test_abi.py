# SPDX-License-Identifier: Apache-2.0
"""The server's calling convention is TVM's: layouts compared with TVM's headers, and a kernel of TVM's C code generator called as it is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.rpc import INCLUDES, ROOT, compile_c
from tvm_tiny.device.rpc.line import ProcessSpec
from tvm_tiny.device.rpc.session import connect
from tvm_tiny.device.rpc.sources import native_sources

TABLE = """\
#include "tiny_rpc.h"
int32_t __tvm_ffi_add_one(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result);
const tiny_rpc_function_t tiny_rpc_functions[] = {{"add_one", __tvm_ffi_add_one, NULL}};
const uint32_t tiny_rpc_num_functions = 1;
"""


def tvm_includes() -> list[str]:
    import tvm
    import tvm_ffi

    folders = [Path(tvm_ffi.__file__).parent / "include", Path(tvm.__file__).parent / "include"]
    return [f"-I{folder}" for folder in folders if folder.is_dir()]


@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param(("gcc",), marks=pytest.mark.host_cc),
        pytest.param(("arm-none-eabi-gcc", "-mcpu=cortex-m7", "-mthumb"), marks=pytest.mark.qemu),
    ],
)
def test_layouts(compiler: tuple[str, ...], tmp_path: Path) -> None:
    source = ROOT / "tests/rpc/tvm_layouts.c"
    command = [*compiler, "-std=gnu11", "-c", *INCLUDES, *tvm_includes(), str(source), "-o", str(tmp_path / "layouts.o")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.host_cc
def test_a_kernel_of_tvms_code_generator(tmp_path: Path) -> None:
    """Linked unchanged; right on right arguments, and its own complaints about wrong ones arrive as exceptions."""
    import tvm
    from tvm import runtime, te, tirx

    a = te.placeholder((16,), "float32", name="a")
    b = te.compute((16,), lambda i: a[i] + tirx.const(1, "float32"), name="b")
    func = te.create_prim_func([a, b]).with_attr("global_symbol", "add_one")
    kernel = tmp_path / "kernel.c"
    kernel.write_text(tvm.tirx.build(tvm.IRModule({"add_one": func}), target={"kind": "c"}).inspect_source())
    table = tmp_path / "table.c"
    table.write_text(TABLE)
    objects = tmp_path / "kernel.o"
    command = ["gcc", "-O2", "-w", "-c", *tvm_includes(), str(kernel), "-o", str(objects)]
    subprocess.run(command, check=True, env={**os.environ, "LC_ALL": "C"}, timeout=120)
    server = compile_c(tmp_path / "server", [*native_sources(), table, objects], ["-Wno-error"])
    with connect(ProcessSpec((str(server),))) as remote:
        device = remote.cpu(0)
        values = np.arange(16, dtype="float32")
        there, out = runtime.tensor(values, device=device), runtime.empty((16,), "float32", device)
        remote.get_function("add_one")(there, out)
        np.testing.assert_array_equal(out.numpy(), values + 1)
        with pytest.raises(RuntimeError, match=r"shape|argument"):
            remote.get_function("add_one")(there, runtime.empty((15,), "float32", device))
        remote.get_function("add_one")(out, out)
        np.testing.assert_array_equal(out.numpy(), values + 2)
