/*
 * The bonus of a tile, in turns of the cache:
 *
 *     BONUS * min(1, chance / (USUAL * mean chance)) * (worth / mean worth)^(1/4)
 *
 * Chance counts below the usual only, and worth little: to hold on to something for the sake of one
 * property costs more than it gains when that is mistaken. The figures in docs/results/eviction.md
 * are what these numbers were chosen by.
 *
 * When half of the clock's 32 bits are used up, all dues are set back at once, which is once in
 * 16,384 replacements of all there is.
 */
#include "lib/store/evict.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/store/map.h"

enum {
    TURN = 1 << 15,     /* steps of the clock in which all of the cache could be replaced */
    MOMENT = TURN / 32, /* uses that follow one another so soon are one */
    LATER = TURN / 64,
    BACK = 1 << 30,          /* the clock is set back by so much when it is beyond … */
    FAR = 3 << 29,           /* … this */
    WORTH_ZERO = 128,        /* the worth of a cost of 1 for a byte */
    WORTH_STEPS = 8,         /* to an octave */
    ATTENTION_TOKENS = 8192, /* so far in, looking back costs as much as all the rest */
    MAX_ASKS = 65536,        /* by one evict_take() */
    ALL = 255,               /* a chance of one */
};

static const double BONUS = 2, USUAL = 1.25, PRIOR = 4, LEARN = 1. / 3;
static const double WORTH_MEAN_OF = 256, CHANCE_MEAN_OF = 1024; /* tiles, about */

int evict_init(struct evict *evict, uint32_t n_max, uint64_t capacity_bytes)
{
    struct evict e = { .n_max = n_max, .mean_worth = WORTH_ZERO, .mean_chance = ALL / 2 };

    e.unit_bytes = capacity_bytes / TURN ? capacity_bytes / TURN : 1;
    e.nodes = map_zeroed(n_max * sizeof(*e.nodes));
    e.heap = map_zeroed(n_max * sizeof(*e.heap));
    *evict = e;
    if (e.nodes && e.heap)
        return 0;
    evict_deinit(evict);
    return error_origin(-ENOMEM);
}

void evict_deinit(struct evict *evict)
{
    map_zeroed_free(evict->nodes, evict->n_max * sizeof(*evict->nodes));
    map_zeroed_free(evict->heap, evict->n_max * sizeof(*evict->heap));
    *evict = (struct evict){ 0 };
}

/* --- the heap --------------------------------------------------------------------------------- */

static void push(struct evict *e, uint32_t number)
{
    uint32_t due = e->nodes[number].due, i = e->n_queued++;

    e->nodes[number].queued = 1;
    for (; i && e->heap[(i - 1) / 2].due > due; i = (i - 1) / 2)
        e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = (struct evict_cell){ due, number };
}

/* The cell at the top is replaced, and finds its place. */
static void sink(struct evict *e, struct evict_cell cell)
{
    uint32_t i = 0, n = e->n_queued;

    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && e->heap[child + 1].due < e->heap[child].due;
        if (e->heap[child].due >= cell.due)
            break;
        e->heap[i] = e->heap[child];
    }
    e->heap[i] = cell;
}

static void pop(struct evict *e)
{
    e->nodes[e->heap[0].number].queued = 0;
    if (--e->n_queued)
        sink(e, e->heap[e->n_queued]);
}

/* --- time ------------------------------------------------------------------------------------- */

static uint32_t set_back(uint32_t due)
{
    return due > BACK ? due - BACK : 0;
}

static void pass_time(struct evict *e, uint64_t n_bytes)
{
    e->fraction += n_bytes;
    e->now += (uint32_t)(e->fraction / e->unit_bytes);
    e->fraction %= e->unit_bytes;
    if (e->now < FAR)
        return;
    e->now -= BACK;
    for (uint32_t i = 0; i < e->n_known; i++)
        e->nodes[i].due = set_back(e->nodes[i].due);
    for (uint32_t i = 0; i < e->n_queued; i++) /* keeps the order */
        e->heap[i].due = set_back(e->heap[i].due);
}

/* --- the bonus -------------------------------------------------------------------------------- */

double evict_cost(uint64_t first_index)
{
    return 1 + (double)first_index / ATTENTION_TOKENS;
}

static uint8_t clamp_byte(double x)
{
    return x < 0 ? 0 : x > UINT8_MAX ? UINT8_MAX : (uint8_t)lrint(x);
}

static uint8_t worth_of(double cost, uint64_t n_bytes)
{
    return clamp_byte(WORTH_ZERO + WORTH_STEPS * log2(cost / (double)(n_bytes ? n_bytes : 1)));
}

/* Of the next child: what is known of those before, drawn towards the parent's own. */
static double chance_of_child(const struct evict *e, uint32_t parent)
{
    const struct evict_node *node = &e->nodes[parent];

    if (parent == EVICT_NONE)
        return ALL * (e->n_found + PRIOR / 2) / (e->n_born + PRIOR);
    return (ALL * node->n_found + PRIOR * node->chance) / (node->n_born + PRIOR);
}

/* In steps of the clock. */
static uint32_t bonus_of(const struct evict *e, const struct evict_node *node)
{
    double chance = node->chance / (USUAL * e->mean_chance);

    return (uint32_t)(TURN * BONUS * (chance < 1 ? chance : 1) *
                      exp2((node->worth - e->mean_worth) / (4 * WORTH_STEPS)));
}

static void set_due(const struct evict *e, struct evict_node *node)
{
    uint32_t due = e->now + bonus_of(e, node);

    node->due = due > node->due ? due : node->due;
}

/* Since its last use: what its due says, but for what has changed meanwhile. */
static int64_t idle_time(const struct evict *e, const struct evict_node *node)
{
    return (int64_t)e->now - ((int64_t)node->due - bonus_of(e, node));
}

/* --- what happens to tiles -------------------------------------------------------------------- */

static struct evict_node *begin(struct evict *e, uint32_t number, double cost, uint64_t n_bytes)
{
    struct evict_node *node = &e->nodes[number];

    assert(number < e->n_max && !node->live);
    *node = (struct evict_node){ .parent = EVICT_NONE,
                                 .due = node->queued ? node->due : 0,
                                 .live = 1,
                                 .queued = node->queued,
                                 .chance = ALL / 2,
                                 .worth = worth_of(cost, n_bytes) };
    if (number >= e->n_known)
        e->n_known = number + 1;
    e->mean_worth += (node->worth - e->mean_worth) / WORTH_MEAN_OF;
    return node;
}

static void bear(struct evict *e, uint32_t number)
{
    struct evict_node *parent = &e->nodes[number];

    e->n_born++;
    if (number == EVICT_NONE)
        return;
    parent->n_children++;
    if (parent->n_born == UINT8_MAX) {
        parent->n_born /= 2;
        parent->n_found /= 2;
    }
    parent->n_born++;
}

void evict_add(struct evict *evict, uint32_t number, uint32_t parent, double cost, uint64_t n_bytes)
{
    struct evict_node *node;

    pass_time(evict, n_bytes);
    node = begin(evict, number, cost, n_bytes);
    node->parent = parent;
    node->chance = clamp_byte(chance_of_child(evict, parent));
    evict->mean_chance += (node->chance - evict->mean_chance) / CHANCE_MEAN_OF;
    bear(evict, parent);
    set_due(evict, node);
}

void evict_recover(struct evict *evict, uint32_t number, double cost, uint64_t n_bytes)
{
    (void)begin(evict, number, cost, n_bytes);
}

void evict_line_up(struct evict *evict, uint32_t number, uint32_t i, uint32_t n)
{
    evict->now = TURN;
    evict->nodes[number].due = (uint32_t)((uint64_t)TURN * i / n);
    push(evict, number);
}

void evict_follow(struct evict *evict, uint32_t number, uint32_t parent)
{
    struct evict_node *node = &evict->nodes[number];

    if (!node->live || node->parent != EVICT_NONE || !evict->nodes[parent].live)
        return;
    node->parent = parent;
    evict->nodes[parent].n_children++;
}

static void teach_parent(struct evict *e, const struct evict_node *node)
{
    struct evict_node *parent = &e->nodes[node->parent];

    e->n_found++;
    if (node->parent != EVICT_NONE && parent->n_found < parent->n_born)
        parent->n_found++;
}

void evict_use(struct evict *evict, uint32_t number)
{
    struct evict_node *node = &evict->nodes[number];

    if (idle_time(evict, node) >= MOMENT) {
        if (!node->found)
            teach_parent(evict, node);
        node->found = 1;
        node->chance = clamp_byte(node->chance + LEARN * (ALL - node->chance));
    }
    set_due(evict, node);
}

void evict_resize(struct evict *evict, uint32_t number, uint64_t n_bytes_before, uint64_t n_bytes)
{
    struct evict_node *node = &evict->nodes[number];
    double change = WORTH_STEPS * log2((double)n_bytes_before / (double)n_bytes);

    node->worth = clamp_byte(node->worth + change);
    set_due(evict, node);
}

void evict_offer(struct evict *evict, uint32_t number)
{
    struct evict_node *node = &evict->nodes[number];

    if (!node->queued && !node->n_children)
        push(evict, number);
}

void evict_let_go(struct evict *evict, uint32_t number)
{
    set_due(evict, &evict->nodes[number]);
    evict_offer(evict, number);
}

static void orphan_children(struct evict *e, uint32_t number)
{
    for (uint32_t i = 0; i < e->n_known; i++) {
        struct evict_node *child = &e->nodes[i];

        if (child->live && child->parent == number) {
            child->parent = EVICT_NONE;
            child->chance = 0;
        }
    }
}

void evict_remove(struct evict *evict, uint32_t number)
{
    struct evict_node *node = &evict->nodes[number];
    uint32_t parent = node->parent;

    node->live = 0;
    if (evict->n_queued && evict->heap[0].number == number)
        pop(evict);
    if (parent != EVICT_NONE && !--evict->nodes[parent].n_children)
        evict_offer(evict, parent);
    if (node->n_children)
        orphan_children(evict, number);
}

uint32_t evict_take(struct evict *evict, enum evict_answer (*ask)(void *user, uint32_t number),
                    void *user)
{
    for (uint32_t i = 0; i < MAX_ASKS && evict->n_queued; i++) {
        struct evict_cell top = evict->heap[0];
        struct evict_node *node = &evict->nodes[top.number];

        if (!node->live || node->n_children) {
            pop(evict);
            continue;
        }
        if (top.due != node->due) {
            sink(evict, (struct evict_cell){ node->due, top.number });
            continue;
        }
        switch (ask(user, top.number)) {
        case EVICT_YES:
            return top.number;
        case EVICT_NO:
            pop(evict);
            break;
        case EVICT_LATER:
            node->due = (node->due > evict->now ? node->due : evict->now) + LATER;
            sink(evict, (struct evict_cell){ node->due, top.number });
            break;
        }
    }
    return EVICT_NONE;
}
