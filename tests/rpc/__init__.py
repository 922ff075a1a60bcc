# SPDX-License-Identifier: Apache-2.0
"""Tests of the RPC session on a device."""
