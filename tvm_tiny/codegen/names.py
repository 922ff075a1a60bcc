# SPDX-License-Identifier: Apache-2.0
"""The prefix microkernels are written with; code generation puts the model's own in its place."""

PREFIX = "tvmgen_model_"
