import { type EtcdTable, etcdFlags, type Flag } from './flags.ts';
import { type EtcdAccess, etcdAccess, type ProcessOptions, type Warn } from './options.ts';
import type { Environment, GivenFlag, Settings } from './settings.ts';

/** `migrate`: from which etcd's v2 store to which one's v3 store; often the same etcd. */
export interface MigrateOptions {
  readonly from: EtcdAccess;
  readonly to: EtcdAccess;
  readonly dryRun: boolean;
  /** Instead of a migration; `named`: subnets whose reservations are to get leases whatever v2 says, as `10.5.1.0/24`. */
  readonly repair?: { readonly named: readonly string[] };
}

/** `migrate --follow`. */
export interface FollowOptions extends Omit<MigrateOptions, 'dryRun'>, ProcessOptions {}

/** `migrate --check`. */
export interface MigrateCheckOptions {
  /** Where the stores are: as this command is told, else as the flanneld with these flags and variables is. Throws UsageError. */
  readonly etcdBeside: (given: readonly GivenFlag[], env: Environment) => Pick<MigrateOptions, 'from' | 'to'>;
}

/** See {@link MigrateCheckOptions}. One that is told another place sends nothing of flanneld's there, least of all a password. */
export function etcdBeside(settings: Settings): MigrateCheckOptions['etcdBeside'] {
  const { etcdEndpoints, etcdPrefix } = etcdFlags;
  const isTold = [etcdEndpoints, etcdPrefix].some((flag) => settings.sourceOf(flag) !== undefined);
  return (given, env) => migrateAccess(isTold ? settings : settings.over(given, env), () => {});
}

/** The flag for the v2 store that goes with one for the v3 store. */
function like({ name }: Flag<unknown>, describe: string) {
  return { name: name.replace(/^etcd-/, 'from-'), group: 'Options', describe } as const;
}

// Where nothing is given they follow the flags for the v3 store, and no variable of a sysconfig file.
const { fallback: _url, sysconfig: _urls, ...endpoints } = etcdFlags.etcdEndpoints;
const { fallback: _key, sysconfig: _keys, ...prefix } = etcdFlags.etcdPrefix;
const { etcdCaFile, etcdCertFile, etcdKeyFile, etcdUsername, etcdPassword, etcdPasswordFile } = etcdFlags;

/** How the v2 store is reached. */
export const fromFlags = {
  etcdEndpoints: {
    ...endpoints,
    ...like(
      etcdFlags.etcdEndpoints,
      'etcd members that serve the v2 store; they are asked by the flags --from-… alone (default: --etcd-endpoints, with the flags for etcd)',
    ),
  },
  etcdPrefix: {
    ...prefix,
    ...like(etcdFlags.etcdPrefix, 'prefix of the keys in the v2 store (default: --etcd-prefix)'),
  },
  etcdCaFile: { ...etcdCaFile, ...like(etcdCaFile, '--etcd-cafile for the v2 store') },
  etcdCertFile: {
    ...etcdCertFile,
    ...like(etcdCertFile, '--etcd-certfile for the v2 store; goes with --from-keyfile'),
  },
  etcdKeyFile: { ...etcdKeyFile, ...like(etcdKeyFile, 'its private key') },
  etcdUsername: {
    ...etcdUsername,
    ...like(etcdUsername, 'user of the v2 store, which has users of its own; needs a password'),
  },
  etcdPassword: {
    ...etcdPassword,
    ...like(etcdPassword, 'its password; seen in the process list when given as a flag'),
  },
  etcdPasswordFile: {
    ...etcdPasswordFile,
    ...like(etcdPasswordFile, 'file that holds the password, alone on its first line'),
  },
} as const;

/**
 * Reads the flags about both stores. With --from-endpoints nothing that is meant for the other etcd goes there, least of all a password.
 * Throws UsageError.
 */
export function migrateAccess(settings: Settings, warn: Warn): Pick<MigrateOptions, 'from' | 'to'> {
  const to = etcdAccess(settings, warn);
  const table: EtcdTable = {
    ...fromFlags,
    etcdEndpoints: {
      ...fromFlags.etcdEndpoints,
      fallback: to.etcdEndpoints.map(({ url }) => url).join(','),
    },
    etcdPrefix: { ...fromFlags.etcdPrefix, fallback: to.etcdPrefix },
  };
  const from = etcdAccess(settings, warn, table);
  if (settings.sourceOf(fromFlags.etcdEndpoints) !== undefined) return { from, to };
  const etcdTls = Object.keys(from.etcdTls).length > 0 ? from.etcdTls : to.etcdTls;
  const etcdUser = from.etcdUser ?? to.etcdUser;
  return { from: { ...from, etcdTls, ...(etcdUser !== undefined && { etcdUser }) }, to };
}
