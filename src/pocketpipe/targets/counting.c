/* A plugin of QEMU (its interface, VERSION 1 or 2, is declared here as far as it is used): counts executed instructions
   by their name and writes "name count" lines to QEMU's log when the program ends. QEMU 9.0 and later refuse version 1. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*ended)(qemu_plugin_id_t, void *);
enum { INLINE_ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated);
#if VERSION == 1
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
#else
typedef void (*executed)(unsigned, void *);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed, int, void *);
#endif
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, ended, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
char *qemu_plugin_insn_disas(const struct qemu_plugin_insn *);
void qemu_plugin_outs(const char *);

EXPORT int qemu_plugin_version = VERSION;

typedef struct block {
    uint64_t executions;
    size_t length;
    int *names;
    struct block *next;
} block;

static block *blocks;
static char names[4096][16];
static uint64_t counts[4096];
static int known;

static int number_of(const char *text) {
    char name[16] = {0};
    for (size_t i = 0; i < sizeof name - 1 && text[i] && text[i] != ' ' && text[i] != '\t'; i++) name[i] = text[i];
    for (int i = 0; i < known; i++)
        if (strcmp(names[i], name) == 0) return i;
    if (known == 4095) return known;
    memcpy(names[known], name, sizeof name);
    return known++;
}

#if VERSION > 1
static void on_execution(unsigned cpu, void *data) {
    (void)cpu;
    ((block *)data)->executions++;
}
#endif

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    block *new = calloc(1, sizeof *new);
    new->length = qemu_plugin_tb_n_insns(tb);
    new->names = calloc(new->length, sizeof *new->names);
    for (size_t i = 0; i < new->length; i++) {
        char *text = qemu_plugin_insn_disas(qemu_plugin_tb_get_insn(tb, i));
        new->names[i] = number_of(text);
        free(text);
    }
    new->next = blocks;
    blocks = new;
#if VERSION == 1
    qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, &new->executions, 1);
#else
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_execution, 0, new);
#endif
}

static void on_end(qemu_plugin_id_t id, void *data) {
    (void)id, (void)data;
    for (block *each = blocks; each; each = each->next)
        for (size_t i = 0; i < each->length; i++) counts[each->names[i]] += each->executions;
    for (int i = 0; i < known; i++) {
        char line[64];
        snprintf(line, sizeof line, "%s %llu\n", names[i], (unsigned long long)counts[i]);
        qemu_plugin_outs(line);
    }
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
    return 0;
}
