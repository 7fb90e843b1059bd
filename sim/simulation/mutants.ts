import type { Mutant } from './mutant.ts';
import { etcdMutants } from './mutants-etcd.ts';
import { hostMutants } from './mutants-host.ts';
import { kernelMutants } from './mutants-kernel.ts';
import { leaseMutants } from './mutants-leases.ts';

/** Parts broken on purpose, each in one behaviour, by what is wrong with it. The simulation has to find every one. */
export const mutants: ReadonlyMap<string, Mutant> = new Map(
  Object.entries({ ...etcdMutants, ...leaseMutants, ...kernelMutants, ...hostMutants }),
);
