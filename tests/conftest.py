# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the seed, what the machine has, and the well-formedness check around every pass."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest

from tests.support.well_formed import checking_every_pass

# Tools a marker needs: one of each inner tuple must be on PATH.
NEEDS = {
    "host_cc": (("gcc", "clang", "cc"),),
    "qemu": (("qemu-system-arm",), ("arm-none-eabi-gcc",)),
}

# A busy machine is no fault of the code: neither how long an example takes nor how long it is in drawing is checked.
_UNTIMED = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("tvm_tiny", deadline=None, suppress_health_check=_UNTIMED, print_blob=True)
hypothesis.settings.load_profile("tvm_tiny")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --seed, --board and --update-golden."""
    parser.addoption("--seed", default="1", help="seed of the rng fixture and of Hypothesis: a number, or 'random' (default: 1)")
    parser.addoption("--board", default=None, help="name of the real board at hand, for tests marked `board`")
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files from what the code produces now")


def pytest_configure(config: pytest.Config) -> None:
    """Fix the seed of this run."""
    asked = config.getoption("--seed")
    config.tiny_seed = random.SystemRandom().randrange(2**31) if asked == "random" else int(asked)  # type: ignore[attr-defined]
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = config.tiny_seed  # type: ignore[attr-defined]


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed, so that a failing run can be repeated."""
    return f"tvm_tiny: --seed={config.tiny_seed}"  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine can't run, naming what is missing."""
    missing = {marker: _missing_tools(marker) for marker in NEEDS}
    missing["zephyr"] = "" if os.environ.get("ZEPHYR_BASE") else "ZEPHYR_BASE"
    missing["board"] = "" if config.getoption("--board") else "--board NAME"
    for item in items:
        for marker, what in missing.items():
            if what and item.get_closest_marker(marker) is not None:
                item.add_marker(pytest.mark.skip(reason=f"{marker}: needs {what}"))


def _missing_tools(marker: str) -> str:
    return ", ".join(" or ".join(choice) for choice in NEEDS[marker] if not any(map(shutil.which, choice)))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by the run's seed and the test's own name, so that tests do not depend on each other's draws."""
    return np.random.default_rng((request.config.tiny_seed, zlib.crc32(request.node.nodeid.encode())))


@pytest.fixture(autouse=True)
def _well_formed_around_every_pass(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check Relax well-formedness before and after every pass a test runs; `@pytest.mark.ill_formed` opts out."""
    if request.node.get_closest_marker("ill_formed") is not None:
        yield
        return
    with checking_every_pass():
        yield
