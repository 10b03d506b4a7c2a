/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_HASH_PTX_H
#define USK_DEVICE_CUDA_HASH_PTX_H

/*
 * The hash of base/hash.h for pieces of device memory; abi.h says how it is launched. Version 6.0 and sm_60, so that
 * every driver that is supported takes it. A thread reads leaves i, i + stride, ...: four loads of 16 bytes in flight,
 * the keys stepped by addition; a warp adds its sums up and one lane adds them to the result.
 */

/* One leaf: words a, b with keys %ka, %kb into %sum, and the keys a stride further. */
#define HASH_LEAF(_a, _b)                                                                                    \
    "xor.b64 %x, " _a ", %ka;\n"                                                                             \
    "xor.b64 %y, " _b ", %kb;\n"                                                                             \
    "mul.lo.u64 %lo, %x, %y;\n"                                                                              \
    "mul.hi.u64 %hi, %x, %y;\n"                                                                              \
    "xor.b64 %lo, %lo, %hi;\n"                                                                               \
    "add.u64 %sum, %sum, %lo;\n"                                                                             \
    "add.u64 %ka, %ka, %da;\n"                                                                               \
    "add.u64 %kb, %kb, %db;\n"

/* Adds the sum of the lane that is `distance` further to this lane's. */
#define HASH_FOLD(_distance)                                                                                 \
    "mov.b64 {%r0, %r1}, %sum;\n"                                                                            \
    "shfl.sync.down.b32 %r0, %r0, " _distance ", 31, -1;\n"                                                  \
    "shfl.sync.down.b32 %r1, %r1, " _distance ", 31, -1;\n"                                                  \
    "mov.b64 %x, {%r0, %r1};\n"                                                                              \
    "add.u64 %sum, %sum, %x;\n"

static const char hash_ptx[] =
    ".version 6.0\n"
    ".target sm_60\n"
    ".address_size 64\n"
    ".visible .entry " USK_CUDA_HASH_KERNEL "(.param .u64 address, .param .u64 piece_bytes, .param .u64 results)\n"
    ".maxntid 256, 1, 1\n"
    "{\n"
    ".reg .pred %p;\n"
    ".reg .b32 %t, %r0, %r1;\n"
    ".reg .b64 %p0, %p1, %p2, %p3, %i, %n, %stride, %step, %far, %ka, %kb, %da, %db, %sum, %x, %y, %lo, %hi;\n"
    ".reg .b64 %a0, %b0, %a1, %b1, %a2, %b2, %a3, %b3;\n"
    /* %p0: this thread's first leaf; %i: its number; %n: leaves of a piece. */
    "ld.param.u64 %p0, [address];\n"
    "cvta.to.global.u64 %p0, %p0;\n"
    "ld.param.u64 %n, [piece_bytes];\n"
    "mov.u32 %t, %ctaid.y;\n"
    "cvt.u64.u32 %x, %t;\n"
    "mad.lo.u64 %p0, %x, %n, %p0;\n"
    "shr.u64 %n, %n, 4;\n"
    "mov.u32 %t, %ctaid.x;\n"
    "mov.u32 %r0, %ntid.x;\n"
    "mov.u32 %r1, %tid.x;\n"
    "mad.lo.u32 %t, %t, %r0, %r1;\n"
    "cvt.u64.u32 %i, %t;\n"
    "mov.u32 %t, %nctaid.x;\n"
    "mul.wide.u32 %stride, %t, %r0;\n"
    "shl.b64 %x, %i, 4;\n"
    "add.u64 %p0, %p0, %x;\n"
    "shl.b64 %step, %stride, 4;\n"
    "mad.lo.u64 %ka, %i, 0xd6e8feb86659fd93, 0x9e3779b97f4a7c15;\n"
    "mad.lo.u64 %kb, %i, 0xa0761d6478bd642f, 0xc2b2ae3d27d4eb4f;\n"
    "mul.lo.u64 %da, %stride, 0xd6e8feb86659fd93;\n"
    "mul.lo.u64 %db, %stride, 0xa0761d6478bd642f;\n"
    "mov.u64 %sum, 0;\n"
    "mul.lo.u64 %far, %stride, 3;\n"
    "four:\n"
    "add.u64 %x, %i, %far;\n"
    "setp.ge.u64 %p, %x, %n;\n"
    "@%p bra one;\n"
    "add.u64 %p1, %p0, %step;\n"
    "add.u64 %p2, %p1, %step;\n"
    "add.u64 %p3, %p2, %step;\n"
    "ld.global.v2.u64 {%a0, %b0}, [%p0];\n"
    "ld.global.v2.u64 {%a1, %b1}, [%p1];\n"
    "ld.global.v2.u64 {%a2, %b2}, [%p2];\n"
    "ld.global.v2.u64 {%a3, %b3}, [%p3];\n"
    HASH_LEAF("%a0", "%b0")
    HASH_LEAF("%a1", "%b1")
    HASH_LEAF("%a2", "%b2")
    HASH_LEAF("%a3", "%b3")
    "add.u64 %p0, %p3, %step;\n"
    "add.u64 %i, %i, %far;\n"
    "add.u64 %i, %i, %stride;\n"
    "bra four;\n"
    "one:\n"
    "setp.ge.u64 %p, %i, %n;\n"
    "@%p bra fold;\n"
    "ld.global.v2.u64 {%a0, %b0}, [%p0];\n"
    HASH_LEAF("%a0", "%b0")
    "add.u64 %p0, %p0, %step;\n"
    "add.u64 %i, %i, %stride;\n"
    "bra one;\n"
    "fold:\n"
    HASH_FOLD("16")
    HASH_FOLD("8")
    HASH_FOLD("4")
    HASH_FOLD("2")
    HASH_FOLD("1")
    "mov.u32 %t, %tid.x;\n"
    "and.b32 %t, %t, 31;\n"
    "setp.ne.u32 %p, %t, 0;\n"
    "@%p bra end;\n"
    "ld.param.u64 %x, [results];\n"
    "cvta.to.global.u64 %x, %x;\n"
    "mov.u32 %t, %ctaid.y;\n"
    "mul.wide.u32 %y, %t, 8;\n"
    "add.u64 %x, %x, %y;\n"
    "red.global.add.u64 [%x], %sum;\n"
    "end:\n"
    "ret;\n"
    "}\n";

#undef HASH_LEAF
#undef HASH_FOLD

#endif
