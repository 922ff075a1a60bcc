# SPDX-License-Identifier: Apache-2.0
"""Figures of whole networks, and the record they are held against."""
