# SPDX-License-Identifier: Apache-2.0
"""Decoding: what an instruction reads, writes and addresses, from its text."""

from __future__ import annotations

import pytest

from tvm_tiny.errors import UnknownInstructionError
from tvm_tiny.profiler.instructions import FIRST_S, FLAGS, LR, PC, SP, Kind, decode, decode_at


@pytest.mark.parametrize(
    ("text", "kind", "reads", "writes"),
    [
        ("adds r0, r1, r2", Kind.ALU, (1, 2), (0, FLAGS)),
        ("adds\tr3, #4", Kind.ALU, (3,), (3, FLAGS)),
        ("add.w r0, r1, r2, lsl #3", Kind.ALU, (1, 2), (0,)),
        ("movs r3, #1", Kind.ALU, (), (3, FLAGS)),
        ("movt r3, #1", Kind.ALU, (3,), (3,)),
        ("cmp r3, fp", Kind.ALU, (3, 11), (FLAGS,)),
        ("addeq r0, r1, r2", Kind.ALU, (1, 2, 0, FLAGS), (0,)),
        ("mov pc, lr", Kind.ALU_PC, (LR,), (PC,)),
        ("bfi r0, r1, #2, #3", Kind.BITFIELD, (1, 0), (0,)),
        ("sxtb16 r4, r5, ror #8", Kind.BITFIELD, (5,), (4,)),
        ("muls r0, r1", Kind.MULTIPLY, (1, 0), (0, FLAGS)),
        ("smull r0, r1, r2, r3", Kind.MULTIPLY, (2, 3), (0, 1)),
        ("udiv r0, r1, r2", Kind.DIVIDE, (1, 2), (0,)),
        ("ldrd r4, r5, [r0], #8", Kind.LOAD_DOUBLE, (), (0, 4, 5)),
        ("strb.w r4, [r0, #1]!", Kind.STORE, (4,), (0,)),
        ("ldr.w pc, [sp], #4", Kind.LOAD_PC, (), (SP, PC)),
        ("ldm r0!, {r4-r6, r8}", Kind.LOAD_MULTIPLE, (), (0, 4, 5, 6, 8)),
        ("push {r4, lr}", Kind.STORE_MULTIPLE, (4, LR), (SP,)),
        ("ldmia.w sp!, {r4, pc}", Kind.POP_PC, (), (SP, 4, PC)),
        ("vldr d1, [r0]", Kind.VFP_LOAD, (), (FIRST_S + 2, FIRST_S + 3)),
        ("vmov r0, r1, d0", Kind.VFP, (FIRST_S, FIRST_S + 1), (0, 1)),
        ("vmov d0, r0, r1", Kind.VFP, (0, 1), (FIRST_S, FIRST_S + 1)),
        ("vcmpe.f32 s0, #0.0", Kind.VFP, (FIRST_S,), ()),
        ("vmrs APSR_nzcv, fpscr", Kind.VFP, (), (FLAGS,)),
        ("bl 1234 <f>", Kind.CALL, (), (LR,)),
        ("blx r3", Kind.BRANCH_REGISTER, (3,), (LR,)),
        ("cbnz r2, 8004 <f>", Kind.COMPARE_BRANCH, (2,), ()),
        ("itete ne", Kind.IT, (), ()),
        ("dbg #1", Kind.HINT, (), ()),
    ],
)
def test_reads_and_writes(text: str, kind: Kind, reads: tuple[int, ...], writes: tuple[int, ...]) -> None:
    instruction = decode(text)
    assert (instruction.kind, instruction.reads, instruction.writes) == (kind, reads, writes)


@pytest.mark.parametrize(
    ("text", "name", "condition", "sets_flags"),
    [
        ("bls.n 8000 <f>", "b", "ls", False),  # not BL with an s
        ("blt.w 8000 <f>", "b", "lt", False),
        ("ble.n 8000 <f>", "b", "le", False),
        ("bleq 8000 <f>", "bl", "eq", False),
        ("bics r0, r1", "bic", None, True),
        ("lsls r0, r1, #2", "lsl", None, True),
        ("mulls r0, r1, r2", "mul", "ls", False),
        ("smmls r0, r1, r2, r3", "smmls", None, False),
        ("strhi r0, [r1]", "str", "hi", False),
        ("subsne r0, r1, #1", "sub", "ne", True),
        ("vmlsne.f32 s0, s1, s2", "vmls", "ne", False),
        ("vnmls.f32 s0, s1, s2", "vnmls", None, False),
    ],
)
def test_suffixes(text: str, name: str, condition: str | None, sets_flags: bool) -> None:
    instruction = decode(text)
    assert (instruction.mnemonic, instruction.condition, instruction.sets_flags) == (name, condition, sets_flags)


@pytest.mark.parametrize(
    ("text", "base", "offset", "writeback"),
    [
        ("ldr r0, [r1]", 1, 0, False),
        ("ldr r0, [r1, #-4]", 1, -4, False),
        ("ldr r0, [r1, #0x10]!", 1, 16, True),
        ("ldr r0, [r1], #4", 1, 0, True),
        ("ldr r0, [r1, r2]", 1, None, False),
        ("str r0, [r1, r2, lsl #2]", 1, None, False),
        ("ldr r0, [pc, #20]\t; (1c <f+0x1c>)", PC, 20, False),
        ("strex r0, r1, [r2]", 2, 0, False),
    ],
)
def test_addresses(text: str, base: int, offset: int | None, writeback: bool) -> None:
    instruction = decode(text)
    assert (instruction.base, instruction.offset, instruction.writeback) == (base, offset, writeback)


def test_the_addend_of_an_accumulating_multiply_is_kept_apart() -> None:
    assert decode("smlad r0, r1, r2, r3").accumulators == (3,)
    assert decode("smlal r0, r1, r2, r3").accumulators == (0, 1)
    assert decode("vfma.f32 s0, s1, s2").accumulators == (FIRST_S,)
    assert decode("smuad r0, r1, r2").accumulators == ()


def test_a_branch_knows_its_target_and_whether_it_is_conditional() -> None:
    assert decode_at("bne.n 1f0 <loop+0x4>", 0x200, 2).target == 0x1F0
    assert decode_at("cbz r0, 1f0 <loop+0x4>", 0x200, 2).target == 0x1F0
    conditional = [decode(text).conditional_branch for text in ("bne 10", "cbz r0, 10", "b 10", "bl 10", "bxne lr")]
    assert conditional == [True, True, False, False, False]


UNKNOWN = ("vmladava.s8 r0, q0, q1", "vadd.i32 q0, q0, q1", "frob r0, r1", "ldr r0", "push", "add", "<UNDEFINED> instruction: 0xde")


@pytest.mark.parametrize("text", UNKNOWN)
def test_an_unknown_instruction_is_an_error_that_quotes_it(text: str) -> None:
    with pytest.raises(UnknownInstructionError) as raised:
        decode(text)
    assert repr(text) in str(raised.value)
