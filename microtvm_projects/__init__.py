# SPDX-License-Identifier: Apache-2.0
"""Firmware project templates and the boards, as package data."""
