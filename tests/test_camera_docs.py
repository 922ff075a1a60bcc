# SPDX-License-Identifier: Apache-2.0
"""docs/camera.md works as it stands: its C compiles without a warning against a header that `--camera rows` made, and runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import tvm_tiny
from tests.support.cli import invoke
from tests.support.shared import ROOT
from tests.support.tiny_builder import TinyBuilder

TEXT = (ROOT / "docs/camera.md").read_text(encoding="utf-8")
DRIVER = """#include <stddef.h>
#include <stdint.h>
struct camera { int32_t broken; uint8_t pixels[16 * 3]; };
static const uint8_t *camera_row(void *context, int32_t y)
{
    struct camera *camera = context;
    for (size_t i = 0; i < sizeof camera->pixels; i++)
        camera->pixels[i] = (uint8_t)(y + (int32_t)i);
    return camera->broken != 0 ? NULL : camera->pixels;
}
"""
MAIN = """int main(void)
{
    static int8_t scores[TVMGEN_VWW_OUTPUT_OUTPUT_0_NBYTES];
    struct camera good = {0, {0}}, bad = {1, {0}};
    return person(&good, scores) == 0 && person(&bad, scores) == -5 ? 0 : 1;
}
"""


@pytest.mark.host_cc
def test_its_c(tmp_path: Path) -> None:
    b = TinyBuilder((1, 16, 16, 3))
    mod = b.finish(b.conv(b.conv(b.x, 4, 3, strides=[2, 2]), 4, 3, strides=[2, 2]))
    model = tvm_tiny.build(mod, "c", name="vww", optimize="sram", camera=True)
    artifact = model.save(tmp_path / "model")
    (code,) = re.findall(r"^```c\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (tmp_path / "camera.h").write_text(DRIVER, encoding="utf-8")
    (tmp_path / "main.c").write_text(code + MAIN, encoding="utf-8")
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-I", str(artifact / "codegen/host/include"), "-I", str(tmp_path)]
    sources = [str(artifact / source) for source in model.metadata()["sources"]]
    subprocess.run(["gcc", *flags, str(tmp_path / "main.c"), *sources, "-lm", "-o", str(tmp_path / "demo")], check=True, timeout=120)
    subprocess.run([str(tmp_path / "demo")], check=True, timeout=60)


def test_its_options_exist() -> None:
    usage = invoke("compile", "--help").stdout
    assert all(option in usage for option in set(re.findall(r"--[a-z]+", TEXT)) - {"--memory"})


def test_a_wrong_option_is_refused_in_words() -> None:
    failed = invoke("compile", str(ROOT / "examples/fashion_mnist/fashion_mnist_int8.tflite"), "-o", "never", "--camera", "yes")
    assert failed.exit_code == 2
    assert "--camera yes: not known" in failed.output
