/*
 * Testing by betting
 *
 * If E[|e|² - g0 |d|² | past] >= 0, the payoff y = (g0 |d|² - |e|²) / s has no positive mean, and
 * no stake that is set beforehand makes the wealth W grow: W is a supermartingale, and ever
 * reaching 1 / delta has at most the chance delta. With |e| <= |d| <= R and s = (1 - g0) R², y >=
 * -1, so that stakes below 1 never ruin. The stake is the one that would have grown fastest on the
 * past.
 */

#include <math.h>

#include "lib/risk/risk_certificate.h"

void risk_bet_init(struct risk_bet *bet)
{
    *bet = (struct risk_bet){ .square = .05 }; /* modest stakes at first */
}

bool risk_bet_step(struct risk_bet *bet, double e2, double d2, double g0, double radius2,
                   double delta)
{
    double stake = bet->mean / (bet->square + bet->mean * bet->mean);
    double payoff = (g0 * d2 - e2) / ((1 - g0) * radius2);

    bet->ln_wealth += log1p(fmin(fmax(stake, 0), .8) * payoff);
    bet->n++;
    bet->mean += (payoff - bet->mean) / (double)(bet->n + 1);
    bet->square += (payoff * payoff - bet->square) / (double)(bet->n + 1);
    bet->certified |= bet->ln_wealth > -log(delta);
    return bet->certified;
}
