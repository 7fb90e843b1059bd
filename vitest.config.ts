import { defineConfig } from 'vitest/config';

// What tests write is to have the modes that they name; those of the program are tested under umasks of their own.
process.umask(0o022);

/** Every project has it, so that a property test takes the seed wherever it is. */
const setupFiles = ['test/testbed/property-seed.ts'];

// Files that need root (namespaces, docker) run one or two at a time: each owns whole processes, and everything on the machine
// that it makes has a name of its own.
const onRealParts = {
  setupFiles,
  pool: 'forks' as const,
  fileParallelism: false,
  testTimeout: 120_000,
  hookTimeout: 120_000,
};

const crowd = 'test/integration/race.test.ts';

export default defineConfig({
  test: {
    projects: [
      // Pure and simulated: nothing is shared, so every core helps (by default one is left idle).
      {
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts', 'test/contract/**/*.memory.test.ts'],
          setupFiles,
          maxWorkers: '100%',
          // The files that a process runs share the modules that it has loaded; what one changes for a test it puts back.
          isolate: false,
          // It ends what hangs, on a busy machine too.
          testTimeout: 60_000,
        },
      },
      // It starts a process for each core by itself.
      {
        test: {
          name: 'simulation',
          include: ['test/simulation/**/*.test.ts'],
          setupFiles,
          fileParallelism: false,
          // Half a minute on two cores of its own; it ends what hangs, beside other runs, too.
          testTimeout: 600_000,
        },
      },
      { test: { name: 'contract', include: ['test/contract/**/*.real.test.ts'], ...onRealParts } },
      {
        test: {
          name: 'integration',
          include: ['test/integration/**/*.test.ts'],
          ...onRealParts,
          exclude: [crowd],
          // They mostly wait: for a frozen etcd to be found dead, for a lease to run out.
          fileParallelism: true,
          maxWorkers: 2,
        },
      },
      // After the others: forty daemons at once leave nothing of the machine to anybody else.
      { test: { name: 'crowd', include: [crowd], ...onRealParts, sequence: { groupOrder: 1 } } },
      { test: { name: 'interop', include: ['test/interop/**/*.test.ts'], ...onRealParts } },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          ...onRealParts,
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
