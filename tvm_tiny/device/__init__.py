# SPDX-License-Identifier: Apache-2.0
"""Devices: generated firmware projects, the line to them, and running a compiled model on a board."""

from __future__ import annotations

from tvm_tiny.device.faults import DeviceFault, Fault
from tvm_tiny.device.image_size import ImageSize, measure_image, measure_objects
from tvm_tiny.device.project import Project, ProjectHandler, ProjectOptions, find_handler, load_project
from tvm_tiny.device.qemu import qemu_command
from tvm_tiny.device.rpc.boards import connect
from tvm_tiny.device.rpc.layers import LayerRun, run_layers
from tvm_tiny.device.runner import RunResult, build_image, generate_project, run

__all__ = [
    "DeviceFault",
    "Fault",
    "ImageSize",
    "LayerRun",
    "Project",
    "ProjectHandler",
    "ProjectOptions",
    "RunResult",
    "build_image",
    "connect",
    "find_handler",
    "generate_project",
    "load_project",
    "measure_image",
    "measure_objects",
    "qemu_command",
    "run",
    "run_layers",
]
