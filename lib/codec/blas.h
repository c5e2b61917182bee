#pragma once

/*
 * Which kernels OpenBLAS has taken
 *
 * It chooses by a list of families and models. A CPU that is newer than the list gets kernels of
 * the oldest, and GEMMs, most of the codec's time, take two to five times as long
 * (docs/results/kernels.md). Only the environment can change that, before the process starts.
 */

/** blas_core() - what it has taken: "SkylakeX", "Prescott", … */
const char *blas_core(void);

/**
 * blas_better_core() - what OPENBLAS_CORETYPE should be
 * @core: what it is
 * @cpu:  KERN_CPU_…
 * Return: NULL when it is well, or nothing better is known.
 */
const char *blas_better_core(const char *core, unsigned cpu);
