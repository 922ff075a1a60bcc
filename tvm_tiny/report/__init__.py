# SPDX-License-Identifier: Apache-2.0
"""Reports of a compiled model: terminal, JSON, HTML."""
