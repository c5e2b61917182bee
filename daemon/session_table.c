/* Things found by a 64-bit id: chained buckets that double when there are more entries than those.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "daemon/session_internal.h"
#include "lib/base/error.h"

static uint32_t bucket_of(const struct id_table *table, uint64_t id)
{
    return (uint32_t)(id * 0x9e3779b97f4a7c15 >> 32) & (table->n_buckets - 1);
}

int id_table_init(struct id_table *table)
{
    table->n_buckets = 256;
    table->n = 0;
    table->buckets = calloc(table->n_buckets, sizeof(*table->buckets));
    return table->buckets ? 0 : error_origin(-ENOMEM);
}

void id_table_deinit(struct id_table *table)
{
    free(table->buckets);
    *table = (struct id_table){ 0 };
}

/* Without memory for more buckets the chains get longer, that is all. */
static void grow(struct id_table *table)
{
    struct id_table bigger = { .n_buckets = table->n_buckets * 2, .n = table->n };

    bigger.buckets = calloc(bigger.n_buckets, sizeof(*bigger.buckets));
    if (!bigger.buckets)
        return;
    for (uint32_t i = 0; i < table->n_buckets; i++) {
        while (table->buckets[i]) {
            struct id_entry *entry = table->buckets[i];
            uint32_t to = bucket_of(&bigger, entry->id);

            table->buckets[i] = entry->next;
            entry->next = bigger.buckets[to];
            bigger.buckets[to] = entry;
        }
    }
    free(table->buckets);
    *table = bigger;
}

void id_table_add(struct id_table *table, struct id_entry *entry)
{
    uint32_t i;

    if (table->n >= table->n_buckets)
        grow(table);
    i = bucket_of(table, entry->id);
    entry->next = table->buckets[i];
    table->buckets[i] = entry;
    table->n++;
}

struct id_entry *id_table_find(const struct id_table *table, uint64_t id)
{
    struct id_entry *entry = table->buckets[bucket_of(table, id)];

    while (entry && entry->id != id)
        entry = entry->next;
    return entry;
}

void id_table_remove(struct id_table *table, struct id_entry *entry)
{
    struct id_entry **at = &table->buckets[bucket_of(table, entry->id)];

    while (*at && *at != entry)
        at = &(*at)->next;
    assert(*at);
    *at = entry->next;
    entry->next = NULL;
    table->n--;
}

struct id_entry *id_table_next(const struct id_table *table, const struct id_entry *entry)
{
    uint32_t i = 0;

    if (entry && entry->next)
        return entry->next;
    if (entry)
        i = bucket_of(table, entry->id) + 1;
    while (i < table->n_buckets && !table->buckets[i])
        i++;
    return i < table->n_buckets ? table->buckets[i] : NULL;
}
