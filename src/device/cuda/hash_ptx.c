/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base/hash.h, bit for bit, for a GPU. Written by hand in PTX 6.0 for sm_60, which every driver and every GPU that we
 * support compiles for itself; what a compiler of today emits, an older driver refuses.
 *
 * A tile is 1024 leaves (16 KiB). Thread t of a block of 256 takes leaves t, t + 256, t + 512 and t + 768 of a tile: a
 * warp reads 512 bytes in one piece, and four loads of a thread are under way at once. Blocks stride over the tiles of
 * a piece; block y works on piece y. The keys of a leaf are not computed from its index each time but stepped:
 *
 *     from a leaf to the one 256 further     + 256 * STEP  = STEP << 8, written out below
 *     from a tile to the next of this block  + gridDim.x * 1024 * STEP
 *
 * Eight blocks to a multiprocessor keep it to 32 registers, which fill an H200 with threads, without a spill.
 *
 * Only the last tile of a piece may be short; its leaves are taken one by one. Then the sums of a warp are added up by
 * shuffles, and its first thread adds the result to that of the piece. Sums are modulo 2^64, so their order is free.
 */
#include "device/cuda/hash.h"

/* One leaf: its words, both keys, and what is added to the sum. */
#define LEAF(_a, _b)                                                                                                  \
    "xor.b64 " _a ", " _a ", %key_a;\n"                                                                               \
    "xor.b64 " _b ", " _b ", %key_b;\n"                                                                               \
    "mul.lo.u64 %low, " _a ", " _b ";\n"                                                                              \
    "mul.hi.u64 %high, " _a ", " _b ";\n"                                                                             \
    "xor.b64 %low, %low, %high;\n"                                                                                    \
    "add.u64 %sum, %sum, %low;\n"

#define NEXT_256                                                                                                      \
    "add.u64 %key_a, %key_a, 0xe8feb86659fd9300;\n"                                                                   \
    "add.u64 %key_b, %key_b, 0x761d6478bd642f00;\n"

/* Adds the sum of the lane `_distance` further to each lane's: only what ends up in lane 0 is used. */
#define SHUFFLE(_distance)                                                                                            \
    "mov.b64 {%half_low, %half_high}, %sum;\n"                                                                        \
    "shfl.sync.down.b32 %half_low, %half_low, " _distance ", 31, 0xffffffff;\n"                                       \
    "shfl.sync.down.b32 %half_high, %half_high, " _distance ", 31, 0xffffffff;\n"                                     \
    "mov.b64 %low, {%half_low, %half_high};\n"                                                                        \
    "add.u64 %sum, %sum, %low;\n"

const char usk_cuda_hash_ptx[] =
    ".version 6.0\n"
    ".target sm_60\n"
    ".address_size 64\n"
    ".visible .entry " USK_CUDA_HASH_KERNEL "(\n"
    "    .param .u64 param_address,\n"
    "    .param .u64 param_piece_bytes,\n"
    "    .param .u64 param_results\n"
    ")\n"
    ".maxntid 256, 1, 1\n"
    ".minnctapersm 8\n"
    "{\n"
    ".reg .pred %is_over;\n"
    ".reg .b32 %thread, %block, %n_blocks, %piece, %lane, %half_low, %half_high;\n"
    ".reg .b64 %at, %piece_bytes, %results, %n, %i, %last, %stride, %stride_bytes, %offset;\n"
    ".reg .b64 %key_a, %key_b, %stride_a, %stride_b, %low, %high, %sum;\n"
    ".reg .b64 %a0, %b0, %a1, %b1, %a2, %b2, %a3, %b3;\n"
    "ld.param.u64 %at, [param_address];\n"
    "ld.param.u64 %piece_bytes, [param_piece_bytes];\n"
    "ld.param.u64 %results, [param_results];\n"
    "mov.u32 %thread, %tid.x;\n"
    "mov.u32 %block, %ctaid.x;\n"
    "mov.u32 %n_blocks, %nctaid.x;\n"
    "mov.u32 %piece, %ctaid.y;\n"
    /* i: the first leaf of this thread; at: its address; n: the leaves of a piece */
    "cvta.to.global.u64 %at, %at;\n"
    "cvta.to.global.u64 %results, %results;\n"
    "shr.u64 %n, %piece_bytes, 4;\n"
    "mul.wide.u32 %i, %block, 1024;\n"
    "cvt.u64.u32 %offset, %thread;\n"
    "add.u64 %i, %i, %offset;\n"
    "cvt.u64.u32 %offset, %piece;\n"
    "mad.lo.u64 %at, %offset, %piece_bytes, %at;\n"
    "shl.b64 %offset, %i, 4;\n"
    "add.u64 %at, %at, %offset;\n"
    "mul.wide.u32 %offset, %piece, 8;\n"
    "add.u64 %results, %results, %offset;\n"
    /* the keys of leaf i, and what they grow by from tile to tile */
    "mul.lo.u64 %key_a, %i, 0xd6e8feb86659fd93;\n"
    "add.u64 %key_a, %key_a, 0x9e3779b97f4a7c15;\n"
    "mul.lo.u64 %key_b, %i, 0xa0761d6478bd642f;\n"
    "add.u64 %key_b, %key_b, 0xc2b2ae3d27d4eb4f;\n"
    "mul.wide.u32 %stride, %n_blocks, 1024;\n"
    "shl.b64 %stride_bytes, %stride, 4;\n"
    /* of which three times 256 leaves have been gone already */
    "sub.u64 %offset, %stride, 768;\n"
    "mul.lo.u64 %stride_a, %offset, 0xd6e8feb86659fd93;\n"
    "mul.lo.u64 %stride_b, %offset, 0xa0761d6478bd642f;\n"
    "mov.u64 %sum, 0;\n"

    "whole_tiles:\n"
    "add.u64 %last, %i, 768;\n"
    "setp.ge.u64 %is_over, %last, %n;\n"
    "@%is_over bra short_tile;\n"
    "ld.global.v2.u64 {%a0, %b0}, [%at];\n"
    "ld.global.v2.u64 {%a1, %b1}, [%at + 4096];\n"
    "ld.global.v2.u64 {%a2, %b2}, [%at + 8192];\n"
    "ld.global.v2.u64 {%a3, %b3}, [%at + 12288];\n"
    LEAF("%a0", "%b0")
    NEXT_256
    LEAF("%a1", "%b1")
    NEXT_256
    LEAF("%a2", "%b2")
    NEXT_256
    LEAF("%a3", "%b3")
    "add.u64 %key_a, %key_a, %stride_a;\n"
    "add.u64 %key_b, %key_b, %stride_b;\n"
    "add.u64 %i, %i, %stride;\n"
    "add.u64 %at, %at, %stride_bytes;\n"
    "bra whole_tiles;\n"

    "short_tile:\n"
    "setp.ge.u64 %is_over, %i, %n;\n"
    "@%is_over bra warp_sum;\n"
    "ld.global.v2.u64 {%a0, %b0}, [%at];\n"
    LEAF("%a0", "%b0")
    NEXT_256
    "add.u64 %i, %i, 256;\n"
    "add.u64 %at, %at, 4096;\n"
    "bra short_tile;\n"

    "warp_sum:\n"
    SHUFFLE("16")
    SHUFFLE("8")
    SHUFFLE("4")
    SHUFFLE("2")
    SHUFFLE("1")
    "and.b32 %lane, %thread, 31;\n"
    "setp.ne.u32 %is_over, %lane, 0;\n"
    "@%is_over bra done;\n"
    "red.global.add.u64 [%results], %sum;\n"
    "done:\n"
    "ret;\n"
    "}\n"

    /* Thread i copies sum i. */
    ".visible .entry " USK_CUDA_PUBLISH_KERNEL "(\n"
    "    .param .u64 param_results,\n"
    "    .param .u64 param_sums,\n"
    "    .param .u64 param_n\n"
    ")\n"
    "{\n"
    ".reg .pred %is_over;\n"
    ".reg .b32 %thread, %block;\n"
    ".reg .b64 %results, %sums, %n, %i, %offset, %sum;\n"
    "ld.param.u64 %results, [param_results];\n"
    "ld.param.u64 %sums, [param_sums];\n"
    "ld.param.u64 %n, [param_n];\n"
    "mov.u32 %thread, %tid.x;\n"
    "mov.u32 %block, %ctaid.x;\n"
    "mul.wide.u32 %i, %block, 256;\n"
    "cvt.u64.u32 %offset, %thread;\n"
    "add.u64 %i, %i, %offset;\n"
    "setp.ge.u64 %is_over, %i, %n;\n"
    "@%is_over bra done;\n"
    "cvta.to.global.u64 %results, %results;\n"
    "cvta.to.global.u64 %sums, %sums;\n"
    "shl.b64 %offset, %i, 3;\n"
    "add.u64 %results, %results, %offset;\n"
    "add.u64 %sums, %sums, %offset;\n"
    "ld.global.u64 %sum, [%sums];\n"
    "st.global.u64 [%results], %sum;\n"
    "done:\n"
    "ret;\n"
    "}\n";
