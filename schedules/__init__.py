# SPDX-License-Identifier: Apache-2.0
"""Schedule rules, one a file: `apply(func, target, tunable)` gives None (not mine), a schedule, or a list of them."""
