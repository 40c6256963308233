import { autoregression } from './autoregression.ts';
import { coarse } from './coarse.ts';
import { onLogs } from './forecaster.ts';
import type { Forecaster } from './forecaster.ts';
import { persistence, profile, recentMedian, seasonalNaive } from './naive.ts';
import { holtWinters, smoothing } from './smoothing.ts';

export const dayNaive = seasonalNaive('day before', 'day');

const dayMean = profile('mean of 7 days', 'day', 7, 'mean');
const logAutoregression = onLogs(autoregression);
const logHoltWinters = onLogs(holtWinters);

/** Those that tell the hours of a day apart, and were best at it together. */
export const HOURLY: readonly Forecaster[] = [autoregression, logAutoregression, holtWinters, logHoltWinters, dayMean];

const hourly = (day: number) => Math.round(day / 24);

const dayMedian = profile('median of 7 days', 'day', 7, 'median');

/**
 * Our own, in the order in which they are believed while none of their errors is known. Each costs a fraction of a millisecond for 672
 * values, and each is the best of all for some series: no choice made in advance is as good as looking at what they missed.
 */
export const FORECASTERS: readonly Forecaster[] = [
  onLogs(smoothing),
  logAutoregression,
  logHoltWinters,
  dayMedian,
  recentMedian('median of a day', ({ day }) => day),
  holtWinters,
  smoothing,
  autoregression,
  dayMean,
  dayNaive,
  profile('mean of 4 weeks', 'week', 4, 'mean'),
  seasonalNaive('week before', 'week'),
  persistence,
  recentMedian('median of 6 hours', ({ day }) => 6 * hourly(day)),
  // What follows speaks only where the steps are finer than hours.
  recentMedian('median of an hour', ({ day }) => hourly(day)),
  ...[onLogs(smoothing), onLogs(holtWinters), onLogs(autoregression), smoothing, dayMedian].map((each) => coarse(each, 24)),
];
