# SPDX-License-Identifier: Apache-2.0
"""A float model and calibration data to QDQ form."""
