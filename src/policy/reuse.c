/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When an entry will be asked for again, from when it was. Two kinds of users are told apart by how regular they are:
 *
 *   - who goes round (a workflow of three models, again and again) comes back when its interval is over. Right after a
 *     use it is the one that can be missed longest, which is the opposite of what "least recently used" thinks;
 *   - who comes at random is as likely in the next turn as ever, whatever has passed.
 *
 * Both are measured in turns (see unstick_reuse), which makes a batch of one model one use. An entry that is overdue
 * loses its pattern: it counts as gone for as long as it has been away already.
 *
 * The hysteresis: a model that was asked for several times in a row is in the middle of a batch, and a visitor is no
 * end of it, whatever the mean of the past says. Without that a new batch's model was evicted by every visitor until
 * its mean had come down, in favour of the last batch's, whose mean was still short (bench/victims, tuning seeds: 1.16
 * times LRU's stall on the worst trace, 1.03 with this and a narrower notion of rhythm).
 */
#include "policy/reuse.h"

/* Weight of the newest interval in the moving means. */
#define REUSE_GAIN 0.25
/* Intervals that differ by a third of their mean have no rhythm. */
#define REUSE_REGULAR 3
/* From this many requests in a row on it is a batch. */
#define REUSE_BATCH 3

void unstick_reuse_note(struct unstick_reuse *reuse, uint64_t turn)
{
    double interval, distance;

    if (reuse->n_uses && turn <= reuse->last_turn) {
        reuse->n_in_turn += turn == reuse->last_turn;
        return;
    }
    interval = (double)(turn - reuse->last_turn);
    if (reuse->n_uses == 1) {
        reuse->mean_turns = interval;
        /* One interval says nothing about how regular they are. */
        reuse->deviation_turns = interval / 2;
    } else if (reuse->n_uses) {
        distance = interval - reuse->mean_turns;
        reuse->mean_turns += REUSE_GAIN * distance;
        reuse->deviation_turns += REUSE_GAIN * ((distance < 0 ? -distance : distance) - reuse->deviation_turns);
    }
    reuse->n_uses++;
    reuse->last_turn = turn;
    reuse->n_in_turn = 1;
}

double usk_reuse_chance(const struct unstick_reuse *reuse, uint64_t turn)
{
    double away = turn > reuse->last_turn ? (double)(turn - reuse->last_turn) : 0;
    double mean = reuse->mean_turns, deviation = reuse->deviation_turns;
    double regularity, random, expected;

    /* Figures come from outside: what is no number counts as not known. */
    if (!(mean >= 1 && mean < 1e15) || !(deviation >= 0))
        return 1 / (2 * (away + 1));
    regularity = deviation < mean / REUSE_REGULAR ? 1 - REUSE_REGULAR * deviation / mean : 0;
    random = mean > away ? mean : away;
    if (away > mean + 2 * deviation)
        regularity = 0;
    if (reuse->n_in_turn >= REUSE_BATCH && random > away + 1)
        random = away + 1;
    expected = regularity * (mean - away) + (1 - regularity) * random;
    return expected > 1 ? 1 / expected : 1;
}
