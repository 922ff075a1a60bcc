# SPDX-License-Identifier: Apache-2.0
"""Memory planning: lifetimes, offsets, rights to share bytes, row streams and patches, and what makes a plan legal."""
