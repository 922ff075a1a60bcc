# SPDX-License-Identifier: Apache-2.0
"""Schedule rules, the kernels they choose from, and the proofs those kernels rest on (imported as `tvm_tiny.schedules`)."""
