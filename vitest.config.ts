import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

// What tests write is to have the modes that they name; those of the program are tested under umasks of their own.
process.umask(0o022);

/** Every project has it, so that a property test takes the seed wherever it is. */
const setupFiles = ['test/testbed/property-seed.ts'];

// Files that need root (namespaces, docker): each owns whole processes, and everything on the machine that it makes has a name
// of its own.
const onRealParts = {
  setupFiles,
  pool: 'forks' as const,
  fileParallelism: false,
  testTimeout: 120_000,
  hookTimeout: 120_000,
};

// Vitest wants another `groupOrder` where the number of workers is another one.
const threeAtATime = { fileParallelism: true, maxWorkers: 3, sequence: { groupOrder: 1 } };

const crowd = 'test/integration/race.test.ts';

/** The files on real parts that take longest, the longest first. */
const LONGEST = [
  'integration/soak',
  'integration/etcd-outage-freeze',
  'integration/address-conflict',
  'integration/own-address',
  'integration/firewall-forwarding',
  'integration/foreign-routes',
  'integration/firewall-blockages',
  'integration/etcd-outage-kill',
  'integration/leftovers',
  'integration/leftovers-first-boot',
  'integration/etcd-unfit',
  'integration/etcd-grpc-proxy',
  'integration/firewall-walk',
  'integration/commands',
  'integration/join-leave',
  'contract/v2-store.real',
  'contract/registry-faults.real',
  'contract/firewall.real',
  'contract/registry.real',
  'contract/kernel.real',
  'contract/v2-store-access.real',
  'e2e/systemd',
  'e2e/image',
  'e2e/demo',
].map((name) => `/test/${name}.test.ts`);

/** Begins with the long files: one that was begun late would run alone at the end. Without a former run Vitest knows only their sizes. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const found = LONGEST.findIndex((name) => moduleId.endsWith(name));
      return found < 0 ? LONGEST.length : found;
    };
    // oxlint-disable-next-line unicorn/no-array-sort -- it is no array's.
    const sorted = await super.sort(files);
    return sorted.toSorted((a, b) => place(a) - place(b));
  }
}

export default defineConfig({
  test: {
    sequence: { sequencer: LongestFirst },
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
      {
        test: {
          name: 'contract',
          include: ['test/contract/**/*.real.test.ts'],
          ...onRealParts,
          // They mostly wait: for a deadline, an election, a lease to run out.
          ...threeAtATime,
        },
      },
      {
        test: {
          name: 'integration',
          include: ['test/integration/**/*.test.ts'],
          ...onRealParts,
          exclude: [crowd],
          // They mostly wait: for a frozen etcd to be found dead, for a lease to run out.
          ...threeAtATime,
        },
      },
      // After the others: forty daemons at once leave nothing of the machine to anybody else.
      { test: { name: 'crowd', include: [crowd], ...onRealParts, sequence: { groupOrder: 2 } } },
      { test: { name: 'interop', include: ['test/interop/**/*.test.ts'], ...onRealParts } },
      {
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          ...onRealParts,
          // They wait for systemd, for Docker, for a firewall at which the daemon looks once a minute. Each has a dockerd of its own.
          fileParallelism: true,
          maxWorkers: 2,
          sequence: { groupOrder: 3 },
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
