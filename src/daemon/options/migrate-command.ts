import type { Command } from './commands.ts';
import { dryRun, etcdFlags, flags, switchFlag } from './flags.ts';
import { subnetOf } from './lease-commands.ts';
import { etcdBeside, fromFlags, migrateAccess } from './migrate.ts';
import { processOptions, tellWhere } from './options.ts';
import { flagName, InvalidValue, UsageError } from './settings.ts';

const repairFlags = {
  repair: switchFlag(
    'repair',
    'give a lease to each reservation in v3 that etcdctl migrate has made of a lease: v2 still has it, with a time to live; copies nothing',
  ),
  repairSubnets: {
    name: 'repair-subnet',
    group: 'Options',
    placeholder: 'SUBNET,…',
    describe:
      'with --repair: subnets whose reservations are to get leases although v2 does not say that they had one',
    parse: subnetList,
    repeatable: true,
    noEnvironment: true,
  },
} as const;

const checkFlag = switchFlag(
  'check',
  'look at the flanneld of this host instead: say what would change for it and what stands in the way of flanneld-ts; changes nothing',
);

const follow = switchFlag(
  'follow',
  'go on until stopped: keep both stores alike, in both directions, while hosts move from one to the other',
);

/** Of `migrate --follow`. The daemon's variables are not meant for it: both may run on one host. */
const followFlags = {
  healthzIp: { ...flags.healthzIp, noEnvironment: true },
  healthzPort: { ...flags.healthzPort, noEnvironment: true },
  verbosity: { ...flags.verbosity, noEnvironment: true },
  logLevel: { ...flags.logLevel, noEnvironment: true },
  logFormat: { ...flags.logFormat, noEnvironment: true },
} as const;

/** The tables for both etcds have the same keys, and a command needs all their rows. */
const migrateFlags = {
  check: checkFlag,
  ...repairFlags,
  dryRun,
  follow,
  ...Object.fromEntries(Object.values(fromFlags).map((flag) => [flag.name, flag])),
  ...etcdFlags,
  ...followFlags,
  help: flags.help,
};

/** `migrate`, once or with `--follow`, `--repair` or `--check`. */
export const migrateCommand: Command = {
  words: ['migrate'],
  describe:
    "Copies the leases and the configuration of flannel 0.7.1 from etcd's v2 store to the v3 store, prints what became of each, and until when all hosts have to use v3. Changes nothing in v2 and nothing that v3 has. May be run again at any time. Exits 1 when something is left for you to decide. With --repair it gives leases to the reservations that etcdctl migrate has made of them, with --check it looks at this host's flanneld.",
  flags: migrateFlags,
  asService: (settings) => settings.value(checkFlag) !== true,
  read({ settings, warn, warnings }) {
    if (settings.value(checkFlag) === true) {
      const other = [repairFlags.repair, follow].find((flag) => settings.value(flag) === true);
      if (other !== undefined)
        throw new UsageError('SYNTAX', `--check and ${flagName(other)} are two things: give one of them`);
      return { command: 'migrate-check', options: { etcdBeside: etcdBeside(settings) } };
    }
    tellWhere(settings, warn);
    const access = migrateAccess(settings, warn);
    const {
      dryRun: isDry,
      repair,
      repairSubnets,
      ...given
    } = settings.values({ dryRun, follow, ...repairFlags });
    const named = repairSubnets.flat();
    if (named.length > 0 && !repair)
      throw new UsageError('SYNTAX', '--repair-subnet goes with --repair: give both');
    if (given.follow) {
      if (isDry || repair) {
        const other = isDry ? '--dry-run' : '--repair';
        throw new UsageError('SYNTAX', `migrate takes --follow or ${other}, not both`);
      }
      const options = { ...access, ...processOptions(settings, followFlags) };
      return { command: 'migrate-follow', options, warnings };
    }
    const stray = Object.values(followFlags).find((flag) => settings.sourceOf(flag) !== undefined);
    if (stray !== undefined)
      throw new UsageError('SYNTAX', `${flagName(stray)} goes with migrate --follow alone`);
    const options = { ...access, dryRun: isDry, ...(repair && { repair: { named } }) };
    return { command: 'migrate', options, warnings };
  },
};

function subnetList(text: string): readonly string[] {
  return text.split(',').map((one) => {
    try {
      return subnetOf(one.trim()).text;
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      throw new InvalidValue('must be subnets like 10.5.1.0/24 without host bits, with commas between');
    }
  });
}
