/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/tsc.h"

#include "base/timeutil.h"

#include <x86intrin.h>

#define READINGS 8

/* Both clocks at the same time: of several tries the one during which the least time passed. */
struct reading {
	int64_t ns;
	uint64_t ticks;
};

static struct reading begin;

static struct reading take_reading(void)
{
	struct reading best = { 0 };
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < READINGS; i++) {
		uint64_t before = __rdtsc(), after;
		int64_t ns = time_monotonic_ns();

		after = __rdtsc();
		if (after - before < least) {
			least = after - before;
			best = (struct reading){ ns, before + (after - before) / 2 };
		}
	}
	return best;
}

void tsc_begin(void)
{
	begin = take_reading();
}

unsigned tsc_khz(void)
{
	static unsigned khz;
	struct reading end;

	if (khz)
		return khz;
	do {
		end = take_reading();
	} while (end.ns - begin.ns < TSC_WINDOW_NS);
	khz = (unsigned)((end.ticks - begin.ticks) * 1000000 / (uint64_t)(end.ns - begin.ns));
	return khz;
}
