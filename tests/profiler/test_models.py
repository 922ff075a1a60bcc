# SPDX-License-Identifier: Apache-2.0
"""Costs of blocks, worked out by hand from each core's published rules."""

from __future__ import annotations

import doctest
import random

import pytest

import tvm_tiny.profiler.model_m7
from tvm_tiny.errors import TargetError
from tvm_tiny.profiler import MODELS, BlockTimer, UnknownInstructionError, cycles_of_block, decode, may_pair, model_for, read_block

FETCH = 0.08  # the M4's fitted cycles of an instruction


def once(text: str, core: str) -> float:
    return cycles_of_block(text.splitlines(), core, loop=False)


@pytest.mark.parametrize(
    ("text", "cycles"),
    [
        ("add r0, r1, r2", 1),
        ("ldr r0, [r1]", 2),
        ("ldr r0, [r1]; ldr r2, [r3]", 3),  # the second under the first
        ("ldr r0, [r1]; ldr r2, [r0]", 4),  # but not when it waits for it
        ("ldr r0, [r1]; str r2, [r3]", 2),
        ("str r0, [r1]", 1),
        ("str r0, [r1, r2]", 2),
        ("str r0, [r1, r2, lsl #2]", 2),
        ("ldrd r0, r1, [r2]", 3),
        ("ldm r0!, {r1-r4}", 5),
        ("push {r4-r7, lr}", 6),
        ("pop {r4-r7, pc}", 8),
        ("add r1, r1, #4; ldr r0, [r1]", 4),  # address just computed
        ("smlal r0, r1, r2, r3", 1),
        ("udiv r0, r1, r2", 6),
        ("bx lr", 3),
        ("bl 100", 2),
        ("tbb [pc, r0]", 6),
        ("vfma.f32 s0, s1, s2", 3),
        ("vadd.f32 s0, s1, s2; vadd.f32 s3, s0, s1", 3),  # waits for its operand
        ("vdiv.f32 s0, s1, s2", 14),
        ("vldr d0, [r0]", 3),
        ("vmov r0, r1, d0", 2),
    ],
)
def test_cortex_m4_table(text: str, cycles: int) -> None:
    assert once(text, "cortex-m4") == pytest.approx(cycles + FETCH * (text.count(";") + 1))


def test_a_taken_branch_costs_one_more_on_the_m4() -> None:
    body = ["subs r0, r0, #1", "bne 1b"]
    assert cycles_of_block(body, "cortex-m4") == pytest.approx(3 + 2 * FETCH)
    assert cycles_of_block(body, "cortex-m4", loop=False) == pytest.approx(2 + 2 * FETCH)


@pytest.mark.parametrize(
    ("older", "younger", "allowed"),
    [
        ("add r0, r1, r2", "add r3, r4, r5", True),
        ("ldr r0, [r1]", "smlad r2, r3, r4, r2", True),
        ("sxtb16 r0, r1", "smlad r2, r3, r4, r2", True),
        ("smlad r2, r3, r4, r2", "sxtb16 r0, r1", False),  # only as the older
        ("smlad r2, r3, r4, r2", "smlad r5, r3, r4, r5", False),
        ("str r0, [r1]", "smlad r2, r3, r4, r2", False),
        ("smlad r2, r3, r4, r2", "str r0, [r1]", False),
        ("str r0, [r1]", "str r2, [r1, #4]", False),
        ("ldr r0, [r1]", "ldr r2, [r1, #4]", True),  # other bank
        ("ldr r0, [r1]", "ldr r2, [r1, #8]", False),  # same bank
        ("ldr r0, [r1], #4", "ldr r2, [r3], #4", True),  # unknown banks
        ("ldrd r0, r1, [r2]", "add r3, r3, #1", False),  # alone
        ("add r3, r3, #1", "ldrd r0, r1, [r2]", False),
        ("add r0, r1, r2, lsl #1", "add r3, r4, r5, lsl #1", False),  # one shifter
        ("ubfx r0, r1, #1, #2", "add r3, r4, r5, lsl #1", False),
        ("vadd.f32 s0, s1, s2", "vadd.f32 s3, s4, s5", False),
        ("vadd.f32 s0, s1, s2", "add r0, r0, #1", True),
    ],
)
def test_cortex_m7_pairs(older: str, younger: str, allowed: bool) -> None:
    assert may_pair(decode(older), decode(younger)) is allowed
    cycles = once(f"{older}; {younger}", "cortex-m7")
    unknown_banks = older.endswith("], #4")  # cost half a cycle
    assert cycles == 1 if allowed and not unknown_banks else cycles >= 1.5


@pytest.mark.parametrize(
    ("text", "cycles"),
    [
        ("add r0, r1, r2; add r3, r4, r5", 1),  # a pair
        ("add r0, r1, r2; add r3, r0, r5", 1),  # forwarded from the early to the late ALU
        ("add r0, r1, r2; ldr r3, [r0]", 1.5),  # an address needs it a cycle later
        ("orr r0, r1, r2; ldr r3, [r0]", 2.5),  # two cycles later from the late ALU
        ("ldr r0, [r1]; add r2, r0, r3", 1.5),
        ("ldr r0, [r1]; ldr r2, [r0]", 2.5),
        ("ldr r0, [r1]; smlad r2, r0, r3, r2", 2.5),  # a multiplicand waits two cycles
        ("ldrb r0, [r1]; add r2, r0, r3", 2.5),  # extension takes one more
        ("smlad r2, r0, r1, r2; smlad r2, r3, r4, r2", 1.5),  # the addend is forwarded
        ("smlad r2, r0, r1, r2; add r5, r2, r2", 2.5),
        ("str r0, [r1]; add r2, r3, r4", 1),
        ("add r0, r1, r2; str r0, [r3]", 1),  # stored data may come late
        ("ldm r0!, {r1-r8}", 4),  # 64 bits a cycle
        ("ldr r0, [r1], #4; ldr r2, [r3], #4", 1.5),  # half a cycle for the unknown banks
        ("vmla.f32 s0, s1, s2; vmla.f32 s0, s3, s4", 3.5),
        ("vdiv.f32 s0, s1, s2", 14.5),
        ("bx lr", 3),
    ],
)
def test_cortex_m7_ready_times(text: str, cycles: float) -> None:
    assert once(text, "cortex-m7") == cycles


def test_an_ordered_gemm_block_reaches_the_bound_of_the_m7() -> None:
    """Each SMLAD (2 MACs) pairs with an older load or extraction: one cycle a SMLAD. Not so when they stand apart."""
    macs = [f"smlad r{8 + n % 4}, r{n // 4}, r{4 + n % 4}, r{8 + n % 4}" for n in range(8)]
    fill = ["ldr r2, [r12]", "sxtb16 r3, r14", "ldr r12, [r12, #4]", "sxtb16 r3, r14, ror #8"] * 2
    paired = [line for pair in zip(fill, macs, strict=True) for line in pair]
    assert cycles_of_block(paired, "cortex-m7") == len(macs)
    assert cycles_of_block(fill + macs, "cortex-m7") > 1.4 * len(macs)


def test_block_timer_equals_fresh_timers_for_every_order() -> None:
    rng = random.Random(7)
    texts = [f"ldr r{n}, [r12, #{4 * n}]" for n in range(4)] + [f"sxtb16 r{n + 4}, r{n}, ror #8" for n in range(4)]
    texts += [f"smlad r{8 + n % 3}, r{n % 4}, r{4 + n // 2}, r{8 + n % 3}" for n in range(8)] + ["add r12, r12, #16", "subs r14, r14, #1"]
    block = [decode(text) for text in texts]
    timer = BlockTimer(block)
    for _ in range(200):
        order = rng.sample(range(len(block)), len(block))
        fresh = BlockTimer([block[n] for n in order])
        assert (timer.loop(order), timer.once(order)) == (fresh.loop(), fresh.once())


def test_other_cores() -> None:
    assert once("smull r0, r1, r2, r3", "cortex-m3") == pytest.approx(5 + FETCH)
    assert once("mla r0, r1, r2, r3; ldr r0, [r1]", "cortex-m3") == pytest.approx(4 + 2 * FETCH)
    assert once("ldr r0, [r1]; ldr r2, [r3]; str r0, [r1, r2]; muls r0, r1; pop {r4, pc}", "cortex-m0") == 2 + 2 + 2 + 1 + 6
    assert cycles_of_block(["subs r0, #1", "bne 1b"], "cortex-m0") == 1 + 3
    assert cycles_of_block(["subs r0, #1", "bne 1b"], "cortex-m0plus") == 1 + 2
    assert "estimate" in model_for("cortex-m33").source
    with pytest.raises(UnknownInstructionError, match=r"udiv.*not an instruction of the cortex-m0"):
        once("udiv r0, r1, r2", "cortex-m0")


def test_every_model_names_its_source() -> None:
    assert all(model.name == name and len(model.source) > 10 for name, model in MODELS.items())


def test_a_core_without_a_model_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(TargetError, match=r"no cycle model for 'cortex-m55'; there are: .*cortex-m7"):
        model_for("cortex-m55")


def test_read_block_skips_labels_directives_and_comments() -> None:
    block = read_block(["1: ldr r0, [r1], #4 @ next", "", ".align 2", "// note", "subs r2, #1; bne 1b\n\t nop"])
    assert [i.mnemonic for i in block] == ["ldr", "sub", "b", "nop"]


def test_docstrings() -> None:
    assert doctest.testmod(tvm_tiny.profiler.model_m7).failed == 0
