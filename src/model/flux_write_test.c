/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <unstick/model.h>

#include "model/flux.h"

static char folder[64], target[96];

static int entry_remove(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path);
}

static int folder_setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/unstick-flux-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(target, sizeof(target), "%s/model", folder);
    return 0;
}

static int folder_teardown(void **state)
{
    (void)state;
    return nftw(folder, entry_remove, 16, FTW_DEPTH | FTW_PHYS);
}

static size_t folder_count(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    size_t n = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)))
        n += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(dir);
    return n;
}

/* The last eight of them stay valid. */
static char *path_join(const char *dir, const char *name)
{
    static char *paths[8];
    static unsigned int next;
    char *path;

    assert_true(asprintf(&path, "%s/%s", dir, name) > 0);
    free(paths[next % 8]);
    paths[next++ % 8] = path;
    return path;
}

/* As small as it gets: 2 MiB in 4 bit. */
static const struct usk_flux_options smallest = { .variant = USK_FLUX_DEV,
                                                  .quant = USK_FLUX_NF4_DQ,
                                                  .scale = 4096 };

static void write_good(const char *dir, struct usk_flux_options options, struct usk_flux_report *ret_report)
{
    struct unstick_error error;
    int status = usk_flux_write(dir, &options, ret_report, &error);

    if (status)
        fail_msg("%s", error.text);
}

static json_t *json_read(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);

    if (!root)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return root;
}

/* A file, split into its header and its contents. */
struct safetensors {
    unsigned char *bytes;
    const unsigned char *contents;
    uint64_t contents_bytes;
    json_t *header;
};

static void safetensors_read(const char *path, struct safetensors *ret_file)
{
    FILE *file = fopen(path, "rb");
    uint64_t length = 0;
    struct stat info;

    assert_non_null(file);
    assert_int_equal(fstat(fileno(file), &info), 0);
    ret_file->bytes = malloc((size_t)info.st_size);
    assert_int_equal(fread(ret_file->bytes, 1, (size_t)info.st_size, file), info.st_size);
    fclose(file);
    for (size_t i = 0; i < 8; i++)
        length |= (uint64_t)ret_file->bytes[i] << (8 * i);
    assert_in_range(length, 2, info.st_size - 8);
    assert_int_equal(length % 8, 0);
    ret_file->header = json_loadb((const char *)ret_file->bytes + 8, length, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(ret_file->header);
    ret_file->contents = ret_file->bytes + 8 + length;
    ret_file->contents_bytes = (uint64_t)info.st_size - 8 - length;
}

static void safetensors_free(struct safetensors *file)
{
    json_decref(file->header);
    free(file->bytes);
}

/* Checks one tensor of a component in the file; returns its bytes. */
static uint64_t safetensors_check(const struct safetensors *file, const struct usk_flux_tensor *tensor,
                                  uint64_t seed)
{
    json_t *entry = json_object_get(file->header, tensor->file.name), *shape;
    unsigned char *made = malloc(tensor->file.bytes);
    json_int_t begin, end;
    const char *dtype;

    assert_int_equal(json_unpack(entry, "{s:s,s:o,s:[I,I]!}", "dtype", &dtype, "shape", &shape,
                                 "data_offsets", &begin, &end),
                     0);
    assert_string_equal(dtype, usk_writer_dtype_name(tensor->file.dtype));
    assert_int_equal(json_array_size(shape), tensor->file.n_dims);
    for (unsigned int i = 0; i < tensor->file.n_dims; i++)
        assert_int_equal(json_integer_value(json_array_get(shape, i)), tensor->file.shape[i]);
    assert_int_equal(end - begin, tensor->file.bytes);
    assert_in_range(end, begin, file->contents_bytes);
    usk_flux_fill(tensor, seed, 0, made, tensor->file.bytes);
    assert_memory_equal(file->contents + begin, made, tensor->file.bytes);
    free(made);
    return tensor->file.bytes;
}

static void test_what_is_written_reads_back(void **state)
{
    static const char *const stems[] = { "diffusion_pytorch_model", "model", "model",
                                         "diffusion_pytorch_model" };
    struct usk_flux_options options = smallest;
    struct usk_flux_inventory *inventory;
    struct usk_flux_report report;
    struct usk_flux_shape shape;
    struct unstick_error error;

    (void)state;
    usk_flux_shape_scaled(options.variant, options.scale, &shape);
    options.seed = 5;
    for (enum usk_flux_quant quant = USK_FLUX_NONE; quant <= USK_FLUX_NF4_DQ; quant++) {
        char dir[128];

        snprintf(dir, sizeof(dir), "%s-%d", target, (int)quant);
        options.quant = quant;
        write_good(dir, options, &report);
        assert_int_equal(usk_flux_inventory_new(&shape, quant, &inventory, &error), UNSTICK_OK);
        for (enum usk_flux_part part = 0; part < USK_FLUX_N_PARTS; part++) {
            const struct usk_flux_component *component = &inventory->parts[part];
            struct safetensors file;
            char name[96];
            uint64_t bytes = 0;

            snprintf(name, sizeof(name), "%s/%s.safetensors", component->name, stems[part]);
            safetensors_read(path_join(dir, name), &file);
            assert_int_equal(json_object_size(file.header), component->n_tensors + 1);
            for (size_t i = 0; i < component->n_tensors; i++)
                bytes += safetensors_check(&file, &component->tensors[i], options.seed);
            /* No gaps and, with the names all different and the contents right, no overlap. */
            assert_int_equal(bytes, file.contents_bytes);
            assert_int_equal(report.parts[part].n_tensors, component->n_tensors);
            assert_int_equal(report.parts[part].device_bytes, component->device_bytes);
            assert_string_equal(report.parts[part].name, component->name);
            safetensors_free(&file);
        }
        usk_flux_inventory_free(inventory);
    }
    assert_int_equal(folder_count(folder), 4);
}

static void test_configurations_say_what_was_written(void **state)
{
    struct usk_flux_report report;
    struct usk_flux_shape shape;
    const char *class_name, *library, *type;
    int width, heads, joint, pooled, layers, is_4bit, is_double, has_guidance;
    json_t *root;

    (void)state;
    usk_flux_shape_scaled(smallest.variant, smallest.scale, &shape);
    write_good(target, smallest, &report);
    root = json_read(path_join(target, "model_index.json"));
    assert_int_equal(
        json_unpack(root, "{s:s,s:[s,s]}", "_class_name", &class_name, "text_encoder_2", &library, &type), 0);
    assert_string_equal(class_name, "FluxPipeline");
    assert_string_equal(type, "T5EncoderModel");
    json_decref(root);
    root = json_read(path_join(target, "transformer/config.json"));
    assert_int_equal(json_unpack(root, "{s:i,s:i,s:i,s:b,s:{s:b,s:b,s:s}}", "num_attention_heads", &heads,
                                 "joint_attention_dim", &joint, "pooled_projection_dim", &pooled,
                                 "guidance_embeds", &has_guidance, "quantization_config", "load_in_4bit",
                                 &is_4bit, "bnb_4bit_use_double_quant", &is_double, "bnb_4bit_quant_type",
                                 &type),
                     0);
    assert_true(is_4bit && is_double && has_guidance);
    assert_string_equal(type, "nf4");
    assert_int_equal(heads, shape.heads);
    json_decref(root);
    root = json_read(path_join(target, "text_encoder_2/config.json"));
    assert_int_equal(json_unpack(root, "{s:i,s:i,s:{s:s}}", "d_model", &width, "num_layers", &layers,
                                 "quantization_config", "quant_method", &type),
                     0);
    assert_int_equal(width, joint);
    assert_int_equal(layers, shape.t5_layers);
    json_decref(root);
    root = json_read(path_join(target, "text_encoder/config.json"));
    assert_int_equal(json_unpack(root, "{s:i}", "hidden_size", &width), 0);
    assert_int_equal(width, pooled);
    assert_null(json_object_get(root, "quantization_config"));
    json_decref(root);
    for (size_t i = 0; i < 4; i++) {
        static const char *const others[] = { "vae/config.json", "scheduler/scheduler_config.json",
                                              "tokenizer/tokenizer_config.json",
                                              "tokenizer_2/tokenizer_config.json" };

        json_decref(json_read(path_join(target, others[i])));
    }
}

/* The first shard that each tensor of a full-size transformer went to, as huggingface_hub 2.4 deals them. */
static void test_shards_are_those_of_the_libraries(void **state)
{
    static const struct {
        enum usk_flux_quant quant;
        size_t n_files;
        json_int_t total_bytes;
        const char *last, *first; /* of one shard, and of the next one */
    } cases[] = {
        { USK_FLUX_NONE, 3, INT64_C(23802816640), "transformer_blocks.14.attn.to_add_out.bias",
          "transformer_blocks.14.ff.net.0.proj.weight" },
        { USK_FLUX_NONE, 3, INT64_C(23802816640), "single_transformer_blocks.24.proj_mlp.bias",
          "single_transformer_blocks.24.proj_out.weight" },
        { USK_FLUX_INT8, 2, INT64_C(11916757880), "single_transformer_blocks.24.proj_mlp.weight_format",
          "single_transformer_blocks.24.proj_out.weight" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct usk_flux_options options = { .quant = cases[i].quant, .scale = 1, .is_sparse = true };
        struct usk_flux_report report;
        const char *last, *first;
        json_int_t total_bytes;
        char dir[128];
        json_t *root;

        snprintf(dir, sizeof(dir), "%s-%zu", target, i);
        write_good(dir, options, &report);
        assert_int_equal(report.parts[USK_FLUX_TRANSFORMER].n_files, cases[i].n_files);
        assert_int_equal(report.parts[USK_FLUX_TEXT_ENCODER_2].n_files, 1);
        root = json_read(path_join(dir, "transformer/diffusion_pytorch_model.safetensors.index.json"));
        assert_int_equal(json_unpack(root, "{s:{s:I},s:{s:s,s:s}}", "metadata", "total_size", &total_bytes,
                                     "weight_map", cases[i].last, &last, cases[i].first, &first),
                         0);
        assert_int_equal(total_bytes, cases[i].total_bytes);
        assert_int_equal(strcspn(last, "-"), strcspn(first, "-"));
        assert_int_equal(atoi(strchr(first, '-') + 1), atoi(strchr(last, '-') + 1) + 1);
        assert_int_equal(access(path_join(path_join(dir, "transformer"), first), F_OK), 0);
        json_decref(root);
    }
}

static void test_shards_hold_everything_once(void **state)
{
    struct usk_flux_options options = smallest;
    struct usk_flux_report report;
    size_t n_tensors = 0;
    struct dirent *entry;
    json_t *root;
    DIR *dir;

    (void)state;
    options.shard_bytes = 300000;
    write_good(target, options, &report);
    assert_true(report.parts[USK_FLUX_TRANSFORMER].n_files > 2);
    root = json_read(path_join(target, "transformer/diffusion_pytorch_model.safetensors.index.json"));
    assert_int_equal(json_object_size(json_object_get(root, "weight_map")),
                     report.parts[USK_FLUX_TRANSFORMER].n_tensors);
    dir = opendir(path_join(target, "transformer"));
    while ((entry = readdir(dir))) {
        struct safetensors file;
        const char *name;
        json_t *value;

        if (!strstr(entry->d_name, "-of-"))
            continue;
        safetensors_read(path_join(path_join(target, "transformer"), entry->d_name), &file);
        json_object_foreach(file.header, name, value)
        {
            json_t *shard = json_object_get(json_object_get(root, "weight_map"), name);

            if (strcmp(name, "__metadata__") != 0) {
                assert_string_equal(json_string_value(shard), entry->d_name);
                n_tensors++;
            }
        }
        safetensors_free(&file);
    }
    closedir(dir);
    json_decref(root);
    assert_int_equal(n_tensors, report.parts[USK_FLUX_TRANSFORMER].n_tensors);
}

static bool files_are_equal(const char *left, const char *right)
{
    struct safetensors a, b;
    bool is_equal;

    safetensors_read(path_join(left, "text_encoder_2/model.safetensors"), &a);
    safetensors_read(path_join(right, "text_encoder_2/model.safetensors"), &b);
    assert_int_equal(a.contents_bytes, b.contents_bytes);
    is_equal = !memcmp(a.contents, b.contents, a.contents_bytes);
    safetensors_free(&a);
    safetensors_free(&b);
    return is_equal;
}

static void test_the_seed_makes_the_contents(void **state)
{
    struct usk_flux_options options = smallest;
    struct usk_flux_report report;
    char dirs[3][128];

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        snprintf(dirs[i], sizeof(dirs[i]), "%s-%zu", target, i);
        options.seed = i / 2;
        write_good(dirs[i], options, &report);
    }
    assert_true(files_are_equal(dirs[0], dirs[1]));
    assert_false(files_are_equal(dirs[0], dirs[2]));
}

static uint64_t blocks_bytes;

static int entry_count(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)path;
    (void)kind;
    (void)walk;
    blocks_bytes += (uint64_t)info->st_blocks * 512;
    return 0;
}

static void test_sparse_is_full_size_on_no_disk(void **state)
{
    struct usk_flux_options options = { .quant = USK_FLUX_INT8, .scale = 1, .is_sparse = true };
    struct usk_flux_report report;
    struct stat info;

    (void)state;
    write_good(target, options, &report);
    blocks_bytes = 0;
    assert_int_equal(nftw(target, entry_count, 16, FTW_PHYS), 0);
    assert_in_range(blocks_bytes, 1, 1 << 20);
    assert_int_equal(stat(path_join(target, "text_encoder_2/model.safetensors"), &info), 0);
    assert_int_equal(info.st_size, report.parts[USK_FLUX_TEXT_ENCODER_2].file_bytes);
    assert_true(report.file_bytes > UINT64_C(18000000000));
}

static const struct unstick_component *component_find(const struct unstick_model *model, const char *name)
{
    const struct unstick_component *components;
    size_t n = unstick_model_components(model, &components);

    assert_int_equal(n, USK_FLUX_N_PARTS);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(components[i].name, name))
            return &components[i];
    }
    return NULL;
}

/* Our own reader sees what the inventory says, at full size, in one file and in shards. */
static void test_the_reader_agrees(void **state)
{
    (void)state;
    for (enum usk_flux_quant quant = USK_FLUX_NONE; quant <= USK_FLUX_NF4_DQ; quant++) {
        struct usk_flux_options options = {
            .variant = USK_FLUX_SCHNELL, .quant = quant, .scale = 1, .is_sparse = true
        };
        struct usk_flux_report report;
        struct unstick_model *model;
        struct unstick_error error;
        char dir[128];

        snprintf(dir, sizeof(dir), "%s-%d", target, (int)quant);
        write_good(dir, options, &report);
        if (unstick_model_open(dir, &model, &error))
            fail_msg("%s", error.text);
        for (enum usk_flux_part part = 0; part < USK_FLUX_N_PARTS; part++) {
            const struct unstick_component *component = component_find(model, report.parts[part].name);
            uint64_t bytes = 0;

            assert_non_null(component);
            assert_int_equal(component->n_tensors, report.parts[part].n_tensors);
            assert_int_equal(component->layout.n_paths, report.parts[part].n_files);
            for (size_t i = 0; i < component->n_tensors; i++)
                bytes += component->tensors[i].is_metadata ? 0 : component->tensors[i].bytes;
            assert_int_equal(bytes, report.parts[part].device_bytes);
        }
        unstick_model_close(model);
    }
}

static void refuse(const char *dir, struct usk_flux_options options, int status, const char *text)
{
    struct usk_flux_report report;
    struct unstick_error error;

    assert_int_equal(usk_flux_write(dir, &options, &report, &error), status);
    assert_int_equal(error.status, status);
    assert_non_null(strstr(error.text, text));
    assert_null(strchr(error.text, '\n'));
}

static void touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

    assert_true(fd >= 0);
    close(fd);
}

static void test_refuses_what_is_in_the_way(void **state)
{
    struct usk_flux_options options = smallest;
    char long_name[300];

    (void)state;
    assert_int_equal(mkdir(target, 0777), 0);
    touch(path_join(target, "file"));
    refuse(target, options, UNSTICK_INVALID_ARGUMENT, "is not empty");
    refuse(path_join(target, "file"), options, UNSTICK_INVALID_ARGUMENT, "not a directory");
    refuse(path_join(target, "file/below"), options, UNSTICK_NOT_FOUND, "cannot create a directory in");
    refuse(path_join(target, "missing/below"), options, UNSTICK_NOT_FOUND, "cannot create a directory in");
    refuse("", options, UNSTICK_INVALID_ARGUMENT, "name a new directory");
    refuse("/", options, UNSTICK_INVALID_ARGUMENT, "name a new directory");
    refuse(path_join(target, ".."), options, UNSTICK_INVALID_ARGUMENT, "name a new directory");
    assert_int_equal(symlink("nowhere", path_join(folder, "link")), 0);
    refuse(path_join(folder, "link"), options, UNSTICK_INVALID_ARGUMENT, "not there");
    assert_int_equal(unlink(path_join(folder, "link")), 0);
    memset(long_name, 'x', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    refuse(path_join(folder, long_name), options, UNSTICK_IO, "too long");
    options.scale = 0;
    refuse(path_join(folder, "other"), options, UNSTICK_INVALID_ARGUMENT, "scale 0");
    options.scale = USK_FLUX_SCALE_MAX + 1;
    refuse(path_join(folder, "other"), options, UNSTICK_INVALID_ARGUMENT, "scale 4097");
    assert_int_equal(folder_count(folder), 1);
    assert_int_equal(folder_count(target), 1);
}

/* Most systems have one: /dev/mqueue, or a volume that was just made. */
static void test_refuses_a_mount_point(void **state)
{
    FILE *mounts = fopen("/proc/self/mounts", "re");
    char line[1024], path[512] = "";
    bool is_found = false;

    (void)state;
    assert_non_null(mounts);
    while (!is_found && fgets(line, sizeof(line), mounts)) {
        DIR *dir = sscanf(line, "%*s %511s", path) == 1 ? opendir(path) : NULL;

        if (dir) {
            closedir(dir);
            is_found = strcmp(path, "/") != 0 && !folder_count(path);
        }
    }
    fclose(mounts);
    if (!is_found)
        skip();
    refuse(path, smallest, UNSTICK_INVALID_ARGUMENT, "mount point");
}

static void test_takes_an_empty_directory_and_follows_links(void **state)
{
    struct usk_flux_options options = smallest;
    struct usk_flux_report report;
    struct stat info;

    (void)state;
    options.is_sparse = true;
    assert_int_equal(mkdir(target, 0777), 0);
    assert_int_equal(symlink(target, path_join(folder, "link")), 0);
    write_good(path_join(folder, "link//"), options, &report);
    assert_int_equal(access(path_join(target, "model_index.json"), F_OK), 0);
    assert_int_equal(lstat(path_join(folder, "link"), &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_int_equal(folder_count(folder), 2);
}

struct watch {
    unsigned int calls, stop_at;
    const char *intruder; /* a path that appears meanwhile */
    struct usk_flux_progress last;
};

static bool watch_progress(void *userdata, const struct usk_flux_progress *progress)
{
    struct watch *watch = userdata;

    assert_true(progress->done_bytes >= watch->last.done_bytes);
    watch->last = *progress;
    if (watch->intruder && !watch->calls)
        assert_int_equal(mkdir(watch->intruder, 0777), 0);
    if (watch->intruder && !watch->calls)
        touch(path_join(watch->intruder, "file"));
    return ++watch->calls != watch->stop_at;
}

static void test_stops_anywhere_and_leaves_nothing(void **state)
{
    struct usk_flux_options options = smallest;
    struct usk_flux_report report;
    struct unstick_error error;
    struct watch watch;
    unsigned int stop_at = 0;
    int status;

    (void)state;
    options.progress = watch_progress;
    options.userdata = &watch;
    do {
        watch = (struct watch){ .stop_at = ++stop_at };
        status = usk_flux_write(target, &options, &report, &error);
        if (status) {
            assert_int_equal(status, UNSTICK_CANCELED);
            assert_int_equal(folder_count(folder), 0);
        }
    } while (status);
    assert_true(stop_at > USK_FLUX_N_PARTS);
    assert_int_equal(watch.last.done_bytes, watch.last.total_bytes);
    assert_int_equal(folder_count(folder), 1);
}

static void test_what_appears_meanwhile_is_not_replaced(void **state)
{
    struct watch watch = { .intruder = target };
    struct usk_flux_options options = smallest;

    (void)state;
    options.progress = watch_progress;
    options.userdata = &watch;
    refuse(target, options, UNSTICK_IO, "its name");
    assert_int_equal(folder_count(folder), 1);
    assert_int_equal(folder_count(target), 1);
}

static void test_full_disk_leaves_nothing(void **state)
{
    struct rlimit limit;

    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    /* Too little for weights; for headers too; for a configuration. */
    for (rlim_t bytes = 200000; bytes; bytes /= 100) {
        struct usk_flux_options options = smallest;

        limit.rlim_cur = bytes;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        refuse(target, options, UNSTICK_NO_SPACE, "File too large");
        assert_int_equal(folder_count(folder), 0);
    }
    limit.rlim_cur = RLIM_INFINITY;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void test_space_is_asked_for_first(void **state)
{
    struct usk_flux_stage *stage;
    struct unstick_error error;

    (void)state;
    assert_int_equal(usk_flux_stage_new(target, UINT64_MAX, &stage, &error), UNSTICK_NO_SPACE);
    assert_int_equal(error.required_bytes, UINT64_MAX);
    assert_in_range(error.available_bytes, 1, UINT64_MAX - 1);
    assert_non_null(strstr(error.text, "free"));
    assert_int_equal(folder_count(folder), 0);
    assert_null(usk_flux_stage_discard(NULL));
}

static void test_what_a_killed_run_left_is_removed(void **state)
{
    struct usk_flux_options options = smallest;
    char *dead = path_join(folder, "model.partial-1"), *live = path_join(folder, "model.partial-2");
    char *foreign = path_join(folder, "model.partial-mine");
    struct usk_flux_report report;
    int fd;

    (void)state;
    options.is_sparse = true;
    assert_int_equal(mkdir(dead, 0777), 0);
    touch(path_join(dead, "file"));
    assert_int_equal(mkdir(live, 0777), 0);
    assert_int_equal(mkdir(foreign, 0777), 0);
    fd = open(live, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    write_good(target, options, &report);
    assert_int_equal(access(path_join(folder, "model.partial-1"), F_OK), -1);
    assert_int_equal(access(path_join(folder, "model.partial-2"), F_OK), 0);
    assert_int_equal(access(path_join(folder, "model.partial-mine"), F_OK), 0);
    close(fd);
}

#define TEST(_name) cmocka_unit_test_setup_teardown(_name, folder_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_written_reads_back),
        TEST(test_configurations_say_what_was_written),
        TEST(test_shards_are_those_of_the_libraries),
        TEST(test_shards_hold_everything_once),
        TEST(test_the_seed_makes_the_contents),
        TEST(test_sparse_is_full_size_on_no_disk),
        TEST(test_the_reader_agrees),
        TEST(test_refuses_what_is_in_the_way),
        TEST(test_refuses_a_mount_point),
        TEST(test_takes_an_empty_directory_and_follows_links),
        TEST(test_stops_anywhere_and_leaves_nothing),
        TEST(test_what_appears_meanwhile_is_not_replaced),
        TEST(test_full_disk_leaves_nothing),
        TEST(test_space_is_asked_for_first),
        TEST(test_what_a_killed_run_left_is_removed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
