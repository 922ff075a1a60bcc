# SPDX-License-Identifier: Apache-2.0
"""Project template: see handler.py."""
