# SPDX-License-Identifier: Apache-2.0
"""The generated C compiles alone and without a warning everywhere, asks for nothing, and lives beside another model."""

from __future__ import annotations

import ctypes
import re
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import tvm_tiny
from tests.support.shared import ROOT, needs_shared, shared_models
from tvm_tiny.boards import find_board
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.device import build_image, measure_image, measure_objects
from tvm_tiny.target import parse_target

OWN = ROOT / "examples/fashion_mnist/fashion_mnist_int8.tflite"
STRICT = (
    "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wcast-qual", "-Wcast-align", "-Wundef",
    "-Wstrict-prototypes", "-Wmissing-prototypes", "-Werror", "-Wno-overlength-strings",  # assembly is one string a function
)  # fmt: skip
CORES = ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")
HEADERS = {"stdint.h", "stdbool.h", "stddef.h", "string.h", "math.h"}
HOSTED = re.compile(r"\b(malloc|calloc|realloc|free|printf|fprintf|puts|fopen|abort|exit|TVM(?!GEN)\w*|tvm/\w+)\b")
LARGEST_CODE = 32 * 1024
VECTORS = {"ad01_int8", "hello_world_int8", "micro_speech_quantized", "str_ww_ref_model"}  # nothing in them is streamed
MODELS = [OWN, *(pytest.param(p, marks=[pytest.mark.slow, needs_shared]) for p in shared_models("tflite/*.tflite"))]


@lru_cache(maxsize=4)
def built(path: Path, target: str, name: str = "net", optimize: str = "balanced") -> CompiledModel:
    return tvm_tiny.build(path, target, name=name, optimize=optimize)


def objects(model: CompiledModel, directory: Path, compiler: str, *flags: str) -> list[Path]:
    """Compile every source alone, with all warnings as errors."""
    artifact = model.save(directory / "model")
    made = []
    for source in (artifact / s for s in model.metadata()["sources"]):
        made.append(directory / f"{source.stem}.o")
        command = [compiler, *STRICT, *flags, "-I", str(artifact / "codegen/host/include"), "-c", str(source), "-o", str(made[-1])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
    return made


@pytest.mark.host_cc
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
@pytest.mark.parametrize("optimise", ["-O0", "-O3"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_warning_on_the_host(path: Path, optimise: str, compiler: str, tmp_path: Path) -> None:
    objects(built(path, "c"), tmp_path, compiler, optimise)


@pytest.mark.qemu
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
@pytest.mark.parametrize("core", CORES)
def test_no_warning_on_arm(path: Path, core: str, tmp_path: Path) -> None:
    target = parse_target(f"c -mcpu={core}")
    assert objects(built(path, f"c -mcpu={core}"), tmp_path, "arm-none-eabi-gcc", *target.cflags, "-O2")


@pytest.mark.qemu
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_kernels_and_glue_are_small(path: Path, core: str, tmp_path: Path) -> None:
    target = parse_target(f"c -mcpu={core}")
    made = objects(built(path, f"c -mcpu={core}"), tmp_path, "arm-none-eabi-gcc", *target.cflags, "-O2")
    assert 0 < measure_objects(made).text < LARGEST_CODE


@pytest.mark.qemu
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_clang_takes_the_arm_form(core: str, tmp_path: Path) -> None:
    include = subprocess.run(["arm-none-eabi-gcc", "-xc", "-E", "-v", "/dev/null"], capture_output=True, text=True, check=True).stderr
    newlib = next((d for d in re.findall(r"^ (\S+)$", include, re.MULTILINE) if (Path(d) / "string.h").is_file()), None)
    assert newlib is not None
    objects(
        built(OWN, f"c -mcpu={core}"),
        tmp_path,
        "clang",
        "--target=arm-none-eabi",
        *parse_target(f"c -mcpu={core}").cflags,
        "-isystem",
        newlib,
        "-O2",
    )


@pytest.mark.parametrize("target", ["c", "c -mcpu=cortex-m7"])
def test_asks_for_nothing_but_freestanding_headers(target: str) -> None:
    for name, data in built(OWN, target).files.items():
        if name.endswith((".c", ".h")):
            text = data.decode()
            assert set(re.findall(r"#include <([^>]+)>", text)) <= HEADERS, name
            code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
            assert not HOSTED.search(code), (name, HOSTED.search(code))


@pytest.mark.parametrize("target", ["c", "c -mcpu=cortex-m7"])
def test_is_ascii_and_names_its_licence(target: str) -> None:
    for name, data in built(OWN, target).files.items():
        if name.endswith((".c", ".h")):
            assert data.isascii(), name
            assert b"Licence of this file: Apache-2.0" in data[:400], name


@pytest.mark.host_cc
def test_arrays_are_aligned_by_every_compiler_or_refused(tmp_path: Path) -> None:
    """Compilers that are not gcc's kin align as C11 does, or say what to define."""
    source = next(s for s in built(OWN, "c").metadata()["sources"] if s.endswith("net.c"))
    artifact = built(OWN, "c").save(tmp_path / "model")

    def compiled(*flags: str) -> str:
        command = ["gcc", "-Werror", *flags, "-I", str(artifact / "codegen/host/include"), "-c", str(artifact / source), "-o", "net.o"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stderr

    assert compiled("-std=c11", "-U__ELF__", "-U__GNUC__") == ""
    assert "define TVMGEN_NET_WORKSPACE as what aligns an array to 16 bytes" in compiled("-std=c99", "-U__ELF__", "-U__GNUC__")
    own = [f'-DTVMGEN_NET_{what}=__attribute__((section(".{what.lower()}"), aligned(16)))' for what in ("WORKSPACE", "CONSTANT")]
    assert compiled("-std=c99", *own) == ""
    sections = subprocess.run(["objdump", "-h", "net.o"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for section in ("workspace", "constant"):
        assert re.search(rf"\.{section} .* 2\*\*4", sections), section


@pytest.mark.host_cc
def test_big_endian_cores_are_refused(tmp_path: Path) -> None:
    artifact = built(OWN, "c").save(tmp_path / "model")
    source = artifact / "codegen/host/src/tvmgen_net_kernels.c"
    command = ["gcc", "-fsyntax-only", "-U__BYTE_ORDER__", "-D__BYTE_ORDER__=__ORDER_BIG_ENDIAN__", str(source)]
    assert "the constants are packed for little-endian cores" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.host_cc
def test_every_external_symbol_carries_the_models_name(tmp_path: Path) -> None:
    for made in objects(built(OWN, "c"), tmp_path, "gcc", "-O1"):
        listing = subprocess.run(["nm", "-g", "--defined-only", str(made)], capture_output=True, text=True, check=True).stdout
        names = [line.split()[-1] for line in listing.splitlines()]
        assert all(n.startswith("tvmgen_net_") for n in names), names


@pytest.mark.host_cc
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_headers_are_cpp(compiler: str, tmp_path: Path) -> None:
    artifact = built(OWN, "c").save(tmp_path / "model")
    body = "const tvmgen_net_inputs in = {image}; const tvmgen_net_outputs out = {}; return (int)tvmgen_net_run(&in, &out);"
    headers = '#include "tvmgen_net.h"\n#include "tvmgen_net_layers.h"\n'
    (tmp_path / "use.cpp").write_text(f"{headers}extern const signed char image[];\nint main() {{ {body} }}\n")
    flags = ["-std=c++11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-I", str(artifact / "codegen/host/include")]
    command = [compiler, *flags, "-c", "use.cpp", "-o", "use.o"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.host_cc
def test_two_models_share_one_image_and_one_workspace(tmp_path: Path, rng: np.random.Generator) -> None:
    models = [built(OWN, "c", name) for name in ("first", "second")]
    made = [o for m in models for o in objects(m, _new(tmp_path / m.name), "gcc", "-O1", "-fPIC")]
    library = tmp_path / "both.so"
    subprocess.run(["gcc", "-shared", "-o", str(library), *map(str, made)], check=True)
    loaded = ctypes.CDLL(str(library))
    size = max(m.workspace_size for m in models)
    raw = np.zeros(size + 16, np.uint8)
    workspace = ctypes.c_void_p(raw.ctypes.data + -raw.ctypes.data % 16)
    x = rng.integers(-128, 128, models[0].inputs[0].shape).astype(np.int8)
    answers = []
    for model in models:
        y = np.zeros(model.outputs[0].shape, np.int8)
        raw[:] = rng.integers(0, 256, raw.size)  # it holds nothing between runs
        run = loaded[f"tvmgen_{model.name}_run_with_workspace"]
        assert run((ctypes.c_void_p * 1)(x.ctypes.data), (ctypes.c_void_p * 1)(y.ctypes.data), workspace) == 0
        answers.append(y)
    np.testing.assert_array_equal(*answers)


@pytest.mark.qemu
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
@pytest.mark.parametrize("goal", ["balanced", "sram"])
def test_macro_report_and_linker_agree_on_the_workspace(path: Path, goal: str, tmp_path: Path) -> None:
    """Whole layers or streamed: the rings are in the arena too."""
    model = built(path, str(find_board("mps2_an500").target), optimize=goal)
    streamed = any(call.op == "tiny.stage" for call in model.program.calls)
    assert streamed or goal != "sram" or path.stem in VECTORS
    header = model.files["codegen/host/include/tvmgen_net.h"].decode()
    macro = int(re.search(r"#define TVMGEN_NET_WORKSPACE_SIZE (\d+)u", header).group(1))  # type: ignore[union-attr]
    image = measure_image(build_image(model.save(tmp_path / "model"), "mps2_an500", tmp_path / "project"))
    assert macro == model.report.arena_bytes == model.metadata()["workspace_size"] == image.workspace("net")


def _new(directory: Path) -> Path:
    directory.mkdir()
    return directory
