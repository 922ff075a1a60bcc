# SPDX-License-Identifier: Apache-2.0
"""Scheduled TIR to C, the ahead-of-time entry function, the header, and the Model Library Format."""
