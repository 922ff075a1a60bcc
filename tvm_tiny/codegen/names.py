# SPDX-License-Identifier: Apache-2.0
"""Names in the generated C. Microkernels are written with a prefix of their own; code generation puts the model's in its place."""

PREFIX = "tvmgen_model_"


def kernel_symbol(model: str, kernel: str) -> str:
    """Return the C name of a kernel."""
    return f"tvmgen_{model}_{kernel}"


def layer_symbol(model: str, index: int) -> str:
    """Return the C name of the function that runs one layer."""
    return f"tvmgen_{model}_layer_{index}"
