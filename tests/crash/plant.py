#!/usr/bin/env python3
"""Copies of the store's sources with bugs planted in them, each behind a number.

plant.py HEADER: writes the numbers. plant.py HEADER IN OUT...: writes IN's file with its bugs to OUT.
The code that is replaced must be there exactly once, so that a plant dies with what it stands on."""
import pathlib
import sys

PLANTS = [  # (name, what is wrong, file, right, wrong); no file: the world of tests/crash does it
    ("GENERATION_STUCK", "a generation is used again", "arena.c",
     "    arena->generations[slot]++;\n    set_word(arena, slot, SLOT_WRITING);\n",
     "    arena->generations[slot] = 1;\n    set_word(arena, slot, (enum slot_state)1);\n"),
    ("PUBLISH_FIRST", "put: COMMITTED before the payload", "arena.c",
     "    set_word(arena, slot, SLOT_WRITING);\n",
     "    set_word(arena, slot, SLOT_COMMITTED);\n"),
    ("PAYLOAD_LATE", "put: payload after COMMITTED", "store_tile.c",
     "    arena_commit(&s->arena, p->slot, &line);\n",
     "    memset(place_bytes(s, p), 0, p->n_bytes); arena_commit(&s->arena, p->slot, &line);"
     "    memcpy(place_bytes(s, p), kind == DPQ_SLOT_BASE ? a->base : a->fine, p->n_bytes);\n"),
    ("LINE_LATE", "put: line after COMMITTED", "arena.c",
     "    memcpy((uint8_t *)to + sizeof(to->word), (uint8_t *)&filled + sizeof(filled.word),\n"
     "           sizeof(filled) - sizeof(filled.word));\n"
     "    atomic_store_explicit(&to->word, word, memory_order_release);\n",
     "    atomic_store_explicit(&to->word, word, memory_order_release);\n"
     "    memcpy((uint8_t *)to + sizeof(to->word), (uint8_t *)&filled + sizeof(filled.word),\n"
     "           sizeof(filled) - sizeof(filled.word));\n"),
    ("ACK_EARLY", "put: acknowledged before it is committed", None, "", ""),
    ("OVERWRITE", "grow: the committed line is written over", "strip.c",
     "    generation = arena_begin(&s->arena, strip->slots[to]);\n",
     "    if (strip->at >= 0)\n"
     "        s->arena.lines[strip->slots[strip->at]].n_bytes = (uint32_t)grown;\n"
     "    generation = arena_begin(&s->arena, strip->slots[to]);\n"),
    ("REUSE_EARLY", "free: the extent is written before the word is FREE", "space.c",
     "    arena_release(&store->arena, place->slot);\n    space_give_slot(store, place->slot);\n",
     "    *place_bytes(store, place) ^= 1;\n"
     "    arena_release(&store->arena, place->slot);\n    space_give_slot(store, place->slot);\n"),
    ("DELETE_ACK_EARLY", "delete: acknowledged before the word is FREE", None, "", ""),
    ("DROP_ACK_EARLY", "drop fine: acknowledged before the word is FREE", None, "", ""),
    ("HEADER_IN_PLACE", "header: the newest copy is written over", "arena.c",
     "    arena->newest ^= 1;\n", "    ;\n"),
    ("EPOCH_LATE", "attach: the epoch is announced before it is in the header", "arena.c",
     "    arena->header.epoch++;\n    if (!arena->header.epoch) /* 0 is no epoch */\n"
     "        arena->header.epoch++;\n    arena_write_header(arena);\n",
     "    arena->header.epoch++;\n"),
    ("GROW_FREES_FIRST", "grow: the shorter line is FREE before the longer is COMMITTED", "strip.c",
     "    arena_commit(&s->arena, strip->slots[to], &strip->line);\n"
     "    if (strip->at >= 0)\n        arena_release(&s->arena, strip->slots[strip->at]);\n",
     "    if (strip->at >= 0)\n        arena_release(&s->arena, strip->slots[strip->at]);\n"
     "    arena_commit(&s->arena, strip->slots[to], &strip->line);\n"),
    ("SCAN_DROPS_BOTH", "attach: both lines of a tail are dropped", "store_recover.c",
     "        if (is_pair(&grown[i], &grown[i + 1]))\n"
     "            free_found(r, grown[i].found, &r->counts->n_orphans);\n",
     "        ;\n"),
    ("SCAN_KEEPS_SHORTER", "attach: of a tail's two lines the shorter is kept", "store_recover.c",
     "        if (is_pair(&grown[i], &grown[i + 1]))\n"
     "            free_found(r, grown[i].found, &r->counts->n_orphans);\n",
     "        if (is_pair(&grown[i], &grown[i + 1]))\n"
     "            free_found(r, grown[i + 1].found, &r->counts->n_orphans);\n"),
    ("SCAN_KEEPS_WRITING", "attach: WRITING slots stay", "store_recover.c",
     "        arena_release(arena, slot);\n        r->counts->n_half_written++;\n", "        ;\n"),
    ("SCAN_WITHOUT_CHECKSUM", "attach: line checksums are not looked at", "arena.c",
     "    return line_checksum(line) == line->line_checksum && counts_good(line) && at < room &&\n"
     "           line_room_bytes(line) <= room - at;\n",
     "    return counts_good(line) && at < room && line_room_bytes(line) <= room - at;\n"),
    ("COUNT_LATE", "attach: the start is counted after the scan", "arena.c",
     "    a.header.clean = 0;\n    arena_write_header(&a);\n", "    a.header.clean = 0;\n"),
    ("BURIED_FORGOTTEN", "free under a lease: the next process does not know", "arena.c",
     "    set_word(arena, slot, SLOT_BURIED);\n", "    arena_release(arena, slot);\n"),
    ("LEASE_FORGOTTEN", "lease: given before the header says how long", "store.c",
     "    store->arena.header.lease_until_ns = until_ns;\n    arena_write_header(&store->arena);\n",
     "    ;\n"),
    ("BASE_FIRST", "put: the base object is committed before the fine one", "store_tile.c",
     "    if (fine->slot != SLOT_NIL)\n        commit_object(s, fine, a, DPQ_SLOT_FINE, checksums[1]);\n"
     "    commit_object(s, base, a, DPQ_SLOT_BASE, checksums[0]);\n",
     "    commit_object(s, base, a, DPQ_SLOT_BASE, checksums[0]);\n"
     "    if (fine->slot != SLOT_NIL)\n        commit_object(s, fine, a, DPQ_SLOT_FINE, checksums[1]);\n"),
    ("FINE_FREED_FIRST", "delete: the fine object is freed before the base", "store_tile.c",
     "    space_bury(s, &base, lease_until_ns, now_ns);\n    space_bury(s, &fine, lease_until_ns, now_ns);\n",
     "    space_bury(s, &fine, lease_until_ns, now_ns);\n    space_bury(s, &base, lease_until_ns, now_ns);\n"),
    ("ORPHANS_STAY", "attach: a fine object without its base keeps its room", "store_recover.c",
     "        drop(r, f, &r->counts->n_orphans);\n        return;\n", "        return;\n"),
    ("SEAL_FREES_FIRST", "seal: the tail is freed before the record says that the tile is there",
     None, "", ""),
    ("RENEW_FREES_FIRST", "record: the old version is freed before the new one is committed",
     "store_record.c",
     "    r = strip_grow(&record->strip, bytes, n_bytes, 0);\n",
     "    old = record_free(old, now_ns); r = strip_grow(&record->strip, bytes, n_bytes, 0);\n"),
    ("OLD_VERSION", "attach: of a record's two versions the older is kept", "store_recover.c",
     "        if (grown[i].line.sequence_id == grown[i + 1].line.sequence_id)\n"
     "            free_found(r, grown[i].found, &r->counts->n_orphans);\n",
     "        if (grown[i].line.sequence_id == grown[i + 1].line.sequence_id)\n"
     "            free_found(r, grown[i + 1].found, &r->counts->n_orphans);\n"),
    ("CUT_FORGOTTEN", "evict: what follows is appended while the record tells of more tiles", None,
     "", ""),
    ("EVICT_KEEPS_WORD", "evict: the room is given away before the word is FREE", "store_tile.c",
     "    arena_release(&s->arena,\n"
     "                  tile->base.slot); /* which nobody gets before the last reference goes */\n",
     "    *place_bytes(s, &tile->base) ^= 1;\n    arena_release(&s->arena, tile->base.slot);\n"),
    ("EVICT_FINE_FIRST", "evict: the fine object is freed before the base", "store_tile.c",
     "    arena_release(&s->arena,\n"
     "                  tile->base.slot); /* which nobody gets before the last reference goes */\n",
     "    space_give(s, &tile->fine);\n    arena_release(&s->arena, tile->base.slot);\n"),
    ("GROW_WITHOUT_SUM", "grow: the checksum does not go on over what came before", "strip.c",
     "    hash_stream_add(hash, arena_extent(&strip->store->arena, strip->first_page), strip->n_bytes);\n",
     "    hash_stream_add(hash, arena_extent(&strip->store->arena, strip->first_page), 0);"
     "    strip->hash = hash;\n    return 0;\n"),
]


def header():
    rows = "".join(f'    X({name}, "{text}") \\\n' for name, text, *_ in PLANTS)
    return ("#pragma once\n\n/* Made by plant.py. */\n#define PLANTS(X) \\\n" + rows.rstrip("\\\n") +
            "\n\nenum {\n    PLANT_NONE,\n" +
            "".join(f"    PLANT_{name},\n" for name, *_ in PLANTS) + "    N_PLANTS\n};\n")


def planted(path):
    text = path.read_text()
    for number, (name, _, file, right, wrong) in enumerate(PLANTS, 1):
        if file != path.name:
            continue
        if text.count(right) != 1:
            sys.exit(f"plant.py: {name}: what it replaces is {text.count(right)} times in {file}")
        # whole statements, so that both ways fit into braces
        text = text.replace(
            right, f"    if (crash_planted == {number}) {{\n{wrong}    }} else {{\n{right}    }}\n")
    return "extern int crash_planted;\n" + text


def main():
    pathlib.Path(sys.argv[1]).write_text(header())
    for source, out in zip(sys.argv[2::2], sys.argv[3::2]):
        pathlib.Path(out).write_text(planted(pathlib.Path(source)))


main()
