/*
 * Removing a profile: not while anybody, or anything that is stored, needs it
 *
 *     marked: nobody finds it any more -> tiles counted, of which there can be no more from here on
 *     -> its file -> its place in the table; or the mark is taken back
 *
 * A process that is killed has it still, or has not: the file is all that counts. Memory is given
 * back by the last worker that kept a codec of it.
 */
#include <stdio.h>
#include <string.h>

#include "daemon/hub.h"
#include "daemon/log.h"
#include "daemon/session_calibration.h"
#include "lib/base/error.h"

struct users {
    uint64_t n_sequences, n_calibrations, n_stored; /* of the tenant that asks */
    bool others;                                    /* another tenant, or a request that looks */
};

/* Who has a reference? Locked */
static struct users count_references(const struct session *session, uint32_t tenant,
                                     const struct profile_entry *entry)
{
    struct users users = { 0 };
    struct id_entry *at = NULL;

    while (entry->refs - entry->n_codecs > 1 && (at = id_table_next(&session->sequences, at))) {
        const struct sequence *sequence = (struct sequence *)at;

        users.n_sequences += sequence->profile == entry && sequence->tenant->index == tenant;
    }
    for (const struct session_calibration *c = session->calibrations; c; c = c->next)
        users.n_calibrations += c->refined == entry && c->tenant == tenant;
    users.others = entry->refs - entry->n_codecs > 1 + users.n_sequences + users.n_calibrations;
    return users;
}

static void count_stored(const struct session *session, uint32_t tenant,
                         const uint8_t profile_id[32], struct users *users)
{
    for (uint32_t i = 0; i < session->n_tenants; i++) {
        uint64_t n = store_count_profile(session->tenants[i].store, profile_id);

        if (i == tenant)
            users->n_stored = n;
        else if (n)
            users->others = true;
    }
}

/* Marked as gone, if @marks and nobody has a reference: users that are new would make a count worth
 * nothing. false: there is no such profile */
static bool look(struct session *session, uint32_t tenant, const uint8_t profile_id[32], bool marks,
                 struct users *ret_users, struct profile_entry **ret_entry)
{
    struct profile_entry *entry;

    session_lock(session);
    entry = profile_find(session, profile_id);
    if (entry && entry->gone)
        entry = NULL;
    if (entry) {
        *ret_users = count_references(session, tenant, entry);
        entry->gone = marks && entry->refs - entry->n_codecs == 1;
    }
    session_unlock(session);
    if (!entry)
        return false;
    count_stored(session, tenant, profile_id, ret_users);
    *ret_entry = entry; /* only removals take it out of the table, one at a time */
    return true;
}

static bool is_used(const struct users *users)
{
    return users->n_sequences || users->n_calibrations || users->n_stored || users->others;
}

/* Without the mark first: what is in use is not to be missing for a moment. 0: marked, nobody uses
 * it; 1 with ret_error */
static int claim(struct session *session, uint32_t tenant, const uint8_t profile_id[32],
                 struct profile_entry **ret_entry, struct session_error *ret_error)
{
    struct users users = { 0 };
    bool found = look(session, tenant, profile_id, false, &users, ret_entry);

    if (found && !is_used(&users))
        found = look(session, tenant, profile_id, true, &users, ret_entry);
    if (found && !is_used(&users))
        return 0;
    if (!found) {
        session_error_set(ret_error, SESSION_NOT_FOUND, "PROFILE",
                          "profile_id names no installed profile");
        return 1;
    }
    session_lock(session);
    (*ret_entry)->gone = false;
    session_unlock(session);
    session_error_set(ret_error, SESSION_FAILED_PRECONDITION, "IN_USE",
                      "the profile is used by %llu sequences, %llu stored tiles and tails and %llu "
                      "calibrations of yours%s",
                      (unsigned long long)users.n_sequences, (unsigned long long)users.n_stored,
                      (unsigned long long)users.n_calibrations,
                      users.others ? ", and by others" : "");
    return 1;
}

/* Its place goes to the last one. Locked */
static void unlist(struct session *session, const struct profile_entry *entry)
{
    size_t i = 0;

    while (session->profiles[i] != entry)
        i++;
    session->profiles[i] = session->profiles[--session->n_profiles];
}

static int remove_claimed(struct session *session, struct profile_entry *entry,
                          struct session_error *ret_error)
{
    struct event event = { .kind = EVENT_PROFILE_REMOVED, .tenant = EVENT_ALL_TENANTS };
    int r = profile_forget_file(session, entry, ret_error);

    memcpy(event.digest, dpq_profile_digest(entry->profile), sizeof(event.digest));
    snprintf(event.text, sizeof(event.text), "%s", dpq_profile_name(entry->profile));
    session_lock(session);
    if (r)
        entry->gone = false;
    else
        unlist(session, entry);
    session_unlock(session);
    if (r)
        return 1;
    log_info("a profile of model \"%s\" was removed", event.text);
    hub_publish(session->hub, &event);
    profile_put(session, entry);
    return 0;
}

int session_profile_remove(struct session *session, uint32_t tenant, const uint8_t profile_id[32],
                           struct session_error *ret_error)
{
    struct profile_entry *entry;
    int r;

    session_error_clear(ret_error);
    pthread_mutex_lock(&session->profiles_mutex);
    r = claim(session, tenant, profile_id, &entry, ret_error);
    if (!r)
        r = remove_claimed(session, entry, ret_error);
    pthread_mutex_unlock(&session->profiles_mutex);
    return r;
}
