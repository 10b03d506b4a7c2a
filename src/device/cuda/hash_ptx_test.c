/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the text of the hash kernels, instruction by instruction, on a machine that knows just those, and compares with
 * the reference. So a change of the kernel is tested where there is no GPU; how fast it is, and that a driver compiles
 * it to the same, only a GPU tells (usk_cuda_hash_init() compares there).
 *
 * The machine is strict: an instruction, a register or a label that it does not know ends the test, as does a load that
 * is not inside of the pieces and aligned. The threads of a warp run one after the other up to each shuffle, where they
 * have to meet.
 */
#include "device/cuda/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

#define WARP 32
#define MAX_INSTRUCTIONS 256
#define MAX_OPERANDS 6
#define MAX_NAMES 64

struct instruction {
    int predicate; /* a register; -1: none */
    bool is_split; /* its first operands are the halves of a value: mov.b64 {%a, %b}, %c */
    char name[32];
    unsigned int n;
    struct operand {
        bool is_immediate;
        uint64_t value; /* or the number of a register or label */
    } operands[MAX_OPERANDS];
};

static struct {
    struct instruction code[MAX_INSTRUCTIONS];
    unsigned int n;
    char registers[MAX_NAMES][24], labels[MAX_NAMES][24];
    unsigned int n_registers, n_labels, targets[MAX_NAMES];
} program;

struct thread {
    uint64_t registers[MAX_NAMES];
    unsigned int at;
    bool is_over;
};

/* What a launch works on. */
static const unsigned char *memory;
static uint64_t memory_bytes, *results, n_results;

static unsigned int name_number(char names[MAX_NAMES][24], unsigned int *n, const char *name)
{
    for (unsigned int i = 0; i < *n; i++) {
        if (!strcmp(names[i], name))
            return i;
    }
    assert_true(*n < MAX_NAMES && strlen(name) < 24);
    strcpy(names[*n], name);
    return (*n)++;
}

static struct operand operand_parse(const char *text)
{
    struct operand operand = { 0 };
    char *end;

    if (text[0] == '%') {
        operand.value = name_number(program.registers, &program.n_registers, text);
    } else if (text[0] >= '0' && text[0] <= '9') {
        operand.is_immediate = true;
        operand.value = strtoull(text, &end, 0);
        assert_true(!*end);
    } else {
        operand.value = name_number(program.labels, &program.n_labels, text);
    }
    return operand;
}

/* "@%p bra label", "ld.global.v2.u64 {%a, %b}, [%at + 16]": brackets and signs do not matter, the order does. */
static void line_parse(char *line)
{
    struct instruction *instruction = &program.code[program.n];
    char *rest = line, *word;

    assert_true(program.n < MAX_INSTRUCTIONS);
    *instruction = (struct instruction){ .predicate = -1, .is_split = strstr(line, "mov.b64 {") };
    while ((word = strtok_r(rest, " ,{}[]+", &rest))) {
        if (word[0] == '@') {
            instruction->predicate = (int)operand_parse(word + 1).value;
        } else if (!instruction->name[0]) {
            assert_true(strlen(word) < sizeof(instruction->name));
            strcpy(instruction->name, word);
        } else {
            assert_true(instruction->n < MAX_OPERANDS);
            instruction->operands[instruction->n++] = operand_parse(word);
        }
    }
    program.n++;
}

static void program_load(const char *entry)
{
    char *text = strdup(usk_cuda_hash_ptx), *rest = strstr(text, entry), *line;

    assert_non_null(rest);
    rest = strstr(rest, "{\n") + 2;
    memset(&program, 0, sizeof(program));
    while ((line = strtok_r(rest, "\n", &rest)) && strcmp(line, "}")) {
        size_t length = strlen(line);
        char last = line[length - 1];

        if (line[0] == '.')
            continue;
        line[length - 1] = '\0';
        assert_true(last == ';' || last == ':');
        if (last == ':')
            program.targets[name_number(program.labels, &program.n_labels, line)] = program.n;
        else
            line_parse(line);
    }
    free(text);
}

static uint64_t thread_get(const struct thread *thread, const struct operand *operand)
{
    return operand->is_immediate ? operand->value : thread->registers[operand->value];
}

static uint64_t multiply_high(uint64_t a, uint64_t b)
{
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (uint32_t)middle;

    return a1 * b1 + (middle >> 32) + (other >> 32);
}

static void thread_load(struct thread *thread, const struct instruction *instruction)
{
    uint64_t at = thread_get(thread, &instruction->operands[2]);

    assert_true(instruction->n == 3 || instruction->n == 4);
    if (instruction->n == 4)
        at += thread_get(thread, &instruction->operands[3]);
    assert_true(at % 16 == 0 && at + 16 <= memory_bytes);
    memcpy(&thread->registers[instruction->operands[0].value], memory + at, 8);
    memcpy(&thread->registers[instruction->operands[1].value], memory + at + 8, 8);
}

static void thread_step(struct thread *thread, const uint64_t *parameters, const struct instruction *instruction)
{
    const struct operand *operands = instruction->operands;
    uint64_t *to = &thread->registers[operands[0].value];
    const char *name = instruction->name;
    uint64_t a = instruction->n > 1 ? thread_get(thread, &operands[1]) : 0;
    uint64_t b = instruction->n > 2 ? thread_get(thread, &operands[2]) : 0;

    if (!strcmp(name, "ret"))
        thread->is_over = true;
    else if (!strcmp(name, "bra"))
        thread->at = program.targets[operands[0].value];
    else if (!strcmp(name, "ld.param.u64"))
        *to = parameters[operands[1].value];
    else if (!strcmp(name, "mov.u32") || !strcmp(name, "mov.u64") || !strcmp(name, "cvt.u64.u32") ||
             !strcmp(name, "cvta.to.global.u64"))
        *to = a;
    else if (!strcmp(name, "mov.b64") && instruction->n == 3 && !instruction->is_split)
        *to = a | b << 32;
    else if (!strcmp(name, "mov.b64") && instruction->n == 3) {
        *to = (uint32_t)b;
        thread->registers[operands[1].value] = b >> 32;
    }
    else if (!strcmp(name, "shr.u64"))
        *to = a >> b;
    else if (!strcmp(name, "shl.b64"))
        *to = a << b;
    else if (!strcmp(name, "add.u64"))
        *to = a + b;
    else if (!strcmp(name, "sub.u64"))
        *to = a - b;
    else if (!strcmp(name, "mul.wide.u32"))
        *to = (uint64_t)(uint32_t)a * (uint32_t)b;
    else if (!strcmp(name, "mul.lo.u64"))
        *to = a * b;
    else if (!strcmp(name, "mul.hi.u64"))
        *to = multiply_high(a, b);
    else if (!strcmp(name, "mad.lo.u64"))
        *to = a * b + thread_get(thread, &operands[3]);
    else if (!strcmp(name, "xor.b64"))
        *to = a ^ b;
    else if (!strcmp(name, "and.b32"))
        *to = a & b;
    else if (!strcmp(name, "setp.ge.u64"))
        *to = a >= b;
    else if (!strcmp(name, "setp.ne.u32"))
        *to = a != b;
    else if (!strcmp(name, "ld.global.v2.u64"))
        thread_load(thread, instruction);
    else if (!strcmp(name, "ld.global.u64")) {
        assert_true(a % 8 == 0 && a + 8 <= memory_bytes);
        memcpy(to, memory + a, 8);
    } else if (!strcmp(name, "st.global.u64")) {
        assert_true(*to % 8 == 0 && *to / 8 < n_results);
        results[*to / 8] = a;
    } else if (!strcmp(name, "red.global.add.u64")) {
        assert_true(*to % 8 == 0 && *to / 8 < n_results);
        results[*to / 8] += a;
    } else {
        fail_msg("the machine does not know \"%s\"", name);
    }
}

/* Up to the next shuffle, or to the end. */
static void thread_run(struct thread *thread, const uint64_t *parameters)
{
    while (!thread->is_over) {
        const struct instruction *instruction = &program.code[thread->at];

        assert_true(thread->at < program.n);
        if (!strncmp(instruction->name, "shfl.", 5))
            return;
        thread->at++;
        if (instruction->predicate < 0 || thread->registers[instruction->predicate])
            thread_step(thread, parameters, instruction);
    }
}

static void warp_shuffle(struct thread threads[WARP])
{
    const struct instruction *instruction = &program.code[threads[0].at];
    uint64_t from[WARP];

    assert_string_equal(instruction->name, "shfl.sync.down.b32");
    assert_true(instruction->n == 5 && instruction->operands[3].value == 31 &&
                instruction->operands[4].value == 0xffffffff);
    for (unsigned int i = 0; i < WARP; i++) {
        assert_true(!threads[i].is_over && threads[i].at == threads[0].at);
        from[i] = (uint32_t)thread_get(&threads[i], &instruction->operands[1]);
    }
    for (unsigned int i = 0; i < WARP; i++) {
        uint64_t source = i + instruction->operands[2].value;

        threads[i].registers[instruction->operands[0].value] = from[source < WARP ? source : i];
        threads[i].at++;
    }
}

static void register_set(struct thread *thread, const char *name, uint64_t value)
{
    thread->registers[name_number(program.registers, &program.n_registers, name)] = value;
}

static void warp_run(const uint64_t *parameters, unsigned int warp, uint32_t block, uint32_t n_blocks, uint32_t piece)
{
    static struct thread threads[WARP];

    for (unsigned int i = 0; i < WARP; i++) {
        threads[i] = (struct thread){ 0 };
        register_set(&threads[i], "%tid.x", warp * WARP + i);
        register_set(&threads[i], "%ctaid.x", block);
        register_set(&threads[i], "%ctaid.y", piece);
        register_set(&threads[i], "%nctaid.x", n_blocks);
    }
    for (;;) {
        for (unsigned int i = 0; i < WARP; i++)
            thread_run(&threads[i], parameters);
        if (threads[0].is_over)
            break;
        warp_shuffle(threads);
    }
    for (unsigned int i = 0; i < WARP; i++)
        assert_true(threads[i].is_over);
}

static void check_launch(uint64_t n_leaves, uint32_t n_pieces, uint32_t n_blocks)
{
    uint64_t piece_bytes = n_leaves * USK_HASH_LEAF_BYTES, word = n_leaves * 977 + n_blocks;
    uint64_t parameters[MAX_NAMES] = { 0 };
    unsigned char *data;

    memory_bytes = (uint64_t)n_pieces * piece_bytes + 16;
    data = malloc(memory_bytes);
    results = calloc(n_pieces + 1, sizeof(results[0]));
    assert_true(data && results);
    for (uint64_t i = 0; i < memory_bytes; i += 8) {
        word = word * USK_HASH_STEP_B + USK_HASH_STEP_A;
        memcpy(data + i, &word, 8);
    }
    memory = data;
    n_results = n_pieces + 1;
    /* Neither the data nor the results start at 0: an offset that is forgotten shows. */
    parameters[name_number(program.labels, &program.n_labels, "param_address")] = 16;
    parameters[name_number(program.labels, &program.n_labels, "param_piece_bytes")] = piece_bytes;
    parameters[name_number(program.labels, &program.n_labels, "param_results")] = 8;
    for (uint32_t piece = 0; piece < n_pieces; piece++) {
        for (uint32_t block = 0; block < n_blocks; block++) {
            for (unsigned int warp = 0; warp < USK_CUDA_HASH_BLOCK / WARP; warp++)
                warp_run(parameters, warp, block, n_blocks, piece);
        }
    }
    assert_int_equal(results[0], 0);
    for (uint32_t piece = 0; piece < n_pieces; piece++) {
        if (results[piece + 1] != usk_hash(data + 16 + piece * piece_bytes, piece_bytes))
            fail_msg("piece %u of %u, %llu leaves, %u blocks: wrong hash", piece, n_pieces,
                     (unsigned long long)n_leaves, n_blocks);
    }
    free(results);
    free(data);
}

static void test_hash(void **state)
{
    static const uint64_t n_leaves[] = { 1,   2,    31,   32,   33,   255,  256,  257,  767,
                                         768, 769, 1023, 1024, 1025, 1791, 1793, 2048, 2049, 5000 };

    (void)state;
    program_load(USK_CUDA_HASH_KERNEL "(");
    for (size_t i = 0; i < sizeof(n_leaves) / sizeof(n_leaves[0]); i++) {
        check_launch(n_leaves[i], 1, 1);
        check_launch(n_leaves[i], 3, 2);
        /* More blocks than tiles: the last have nothing to do. */
        check_launch(n_leaves[i], 1, 7);
    }
}

static void check_publish(uint64_t n)
{
    uint64_t sums[600], parameters[MAX_NAMES] = { 0 };
    uint32_t n_blocks = (uint32_t)((n + USK_CUDA_HASH_BLOCK - 1) / USK_CUDA_HASH_BLOCK);

    for (uint64_t i = 0; i < 600; i++)
        sums[i] = (i + 1) * USK_HASH_STEP_A;
    results = calloc(600, sizeof(results[0]));
    memory = (unsigned char *)sums;
    memory_bytes = sizeof(sums);
    n_results = 600;
    parameters[name_number(program.labels, &program.n_labels, "param_results")] = 16;
    parameters[name_number(program.labels, &program.n_labels, "param_sums")] = 24;
    parameters[name_number(program.labels, &program.n_labels, "param_n")] = n;
    for (uint32_t block = 0; block < n_blocks; block++) {
        for (unsigned int warp = 0; warp < USK_CUDA_HASH_BLOCK / WARP; warp++)
            warp_run(parameters, warp, block, n_blocks, 0);
    }
    for (uint64_t i = 0; i < 600; i++)
        assert_int_equal(results[i], i >= 2 && i < n + 2 ? sums[i + 1] : 0);
    free(results);
}

static void test_publish(void **state)
{
    (void)state;
    program_load(USK_CUDA_PUBLISH_KERNEL "(");
    check_publish(1);
    check_publish(32);
    check_publish(256);
    check_publish(257);
    check_publish(513);
}

/* As every driver since 470 and every GPU since Turing takes it, with the parameters that are passed. */
static void test_declaration(void **state)
{
    const char *parameters;

    (void)state;
    assert_memory_equal(usk_cuda_hash_ptx, ".version 6.0\n.target sm_60\n", 27);
    parameters = strstr(usk_cuda_hash_ptx, ".entry " USK_CUDA_HASH_KERNEL "(");
    assert_non_null(parameters);
    for (int i = 0; i < USK_CUDA_HASH_N_PARAMETERS; i++) {
        parameters = strstr(parameters + 1, ".param .u64 ");
        assert_non_null(parameters);
    }
    parameters = strstr(usk_cuda_hash_ptx, ".entry " USK_CUDA_PUBLISH_KERNEL "(");
    assert_non_null(parameters);
    for (int i = 0; i < USK_CUDA_PUBLISH_N_PARAMETERS; i++) {
        parameters = strstr(parameters + 1, ".param .u64 ");
        assert_non_null(parameters);
    }
    assert_null(strstr(parameters + 1, ".param .u64 "));
    assert_non_null(strstr(usk_cuda_hash_ptx, ".maxntid 256, 1, 1\n"));
    assert_int_equal(USK_CUDA_HASH_BLOCK, 256);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_declaration),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_publish),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
