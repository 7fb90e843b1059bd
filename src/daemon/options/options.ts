import { dirname, join } from 'node:path';
import type { EtcdUser } from '../../subnet/etcd/security.ts';
import type { TlsFiles } from '../../subnet/etcd/tls-files.ts';
import { type Endpoint, withOneScheme } from './endpoints.ts';
import {
  type DaemonOptions,
  type EtcdTable,
  etcdFlags,
  flags,
  interfaceFlags,
  processFlags,
  workFlags,
} from './flags.ts';
import { environmentName, flagName, type Settings, UsageError } from './settings.ts';

// What the flags mean together. Each function reads some of them, checks them against each other, and throws UsageError.

/** What a run of the daemon was asked for; checked, typed, with defaults filled in. */
export interface Options extends EtcdAccess, DaemonOptions, ProcessOptions {
  /** Where `status` is answered; absent: nowhere. */
  readonly statusSocket?: string;
}

/** How a process that runs until it is stopped tells how it is. */
export interface ProcessOptions {
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
  /** Absent: pretty on a terminal and in the journal, else json. */
  readonly logFormat?: 'json' | 'pretty';
  /** Absent: switched off. */
  readonly healthz?: { readonly ip: string; readonly port: number };
}

/** How etcd is reached, and where in it the network is. */
export interface EtcdAccess {
  /** At least one; all of one scheme. */
  readonly etcdEndpoints: readonly Endpoint[];
  /** As given: keys are made from it by Go's path.Join. */
  readonly etcdPrefix: string;
  /** Paths. Certificate and key are there both or not at all; without any of them https trusts what the system trusts. */
  readonly etcdTls: TlsFiles;
  /** Absent: etcd is asked without a name. Never to be logged. */
  readonly etcdUser?: EtcdUser;
}

type ProcessTable = Pick<
  typeof processFlags,
  'verbosity' | 'logLevel' | 'logFormat' | 'healthzIp' | 'healthzPort'
>;

/** Gets what was ignored or read differently: lines for the log. */
export type Warn = (message: string) => void;

/** Says so when nothing tells a command where etcd is, and so it may look beside it. */
export function tellWhere(settings: Settings, warn: Warn): void {
  const { etcdEndpoints, etcdPrefix } = flags;
  if ([etcdEndpoints, etcdPrefix].some((flag) => settings.sourceOf(flag) !== undefined)) return;
  warn(
    `looking at ${etcdEndpoints.fallback} under ${etcdPrefix.fallback}: neither flags, variables nor /etc/sysconfig/flanneld name another place`,
  );
}

/** Reads the flags of a run. */
export function runOptions(settings: Settings, warn: Warn): Options {
  const work = settings.values(workFlags);
  if (work.subnetFile === work.dockerOptsFile)
    throw new UsageError('BAD_VALUE', '--subnet-file and --docker-opts-file must be different files');
  const socket = statusSocket(settings);
  return {
    ...etcdAccess(settings, warn),
    ...settings.values(interfaceFlags),
    ...work,
    ...processOptions(settings),
    ...(socket !== undefined && { statusSocket: socket }),
  };
}

/** Reads the flags about log and probes; `table`: how they are given. */
export function processOptions(settings: Settings, table: ProcessTable = processFlags): ProcessOptions {
  const { verbosity, logLevel, logFormat, healthzIp: ip, healthzPort: port } = settings.values(table);
  return {
    logLevel: logLevel ?? (verbosity > 0 ? 'debug' : 'info'),
    ...(logFormat !== undefined && { logFormat }),
    ...(port !== 0 && { healthz: { ip, port } }),
  };
}

/**
 * Where the daemon listens; undefined when it does not. By default the place follows from the subnet file, which two daemons on one
 * host never share.
 */
export function statusSocket(settings: Settings): string | undefined {
  const { statusSocket: given, subnetFile } = settings.values({
    statusSocket: flags.statusSocket,
    subnetFile: flags.subnetFile,
  });
  if (settings.sourceOf(flags.statusSocket) !== undefined) return given;
  const name = subnetFile.slice(subnetFile.lastIndexOf('/') + 1);
  return join(dirname(subnetFile), `${name.replace(/\.env$/, '')}.sock`);
}

/** Reads the flags about etcd; `table`: their names. */
export function etcdAccess(settings: Settings, warn: Warn, table: EtcdTable = etcdFlags): EtcdAccess {
  const { etcdEndpoints: parsed, etcdPrefix, etcdCaFile: caFile, ...given } = settings.values(table);
  const { etcdCertFile: certFile, etcdKeyFile: keyFile } = given;
  if ((certFile === undefined) !== (keyFile === undefined)) {
    const [there, missing] =
      certFile === undefined
        ? [table.etcdKeyFile, table.etcdCertFile]
        : [table.etcdCertFile, table.etcdKeyFile];
    throw new UsageError(
      'MISSING_VALUE',
      `${settings.sourceOf(there)} needs ${flagName(missing)}: a certificate is of use only with its key`,
    );
  }
  const etcdTls: TlsFiles = {
    ...(caFile !== undefined && { caFile }),
    ...(certFile !== undefined && keyFile !== undefined && { certFile, keyFile }),
  };
  const etcdUser = user(settings, given, warn, table);
  const etcdEndpoints = withOneScheme(parsed, certFile !== undefined, warn);
  if (etcdEndpoints[0]?.scheme === 'http' && Object.keys(etcdTls).length > 0) {
    warn(
      'the TLS files are not used, because the first etcd endpoint is one without TLS: write it as https://host:port',
    );
  }
  return { etcdEndpoints, etcdPrefix, etcdTls, ...(etcdUser !== undefined && { etcdUser }) };
}

interface GivenUser {
  readonly etcdUsername?: string;
  readonly etcdPassword?: string;
  readonly etcdPasswordFile?: string;
}

function user(settings: Settings, given: GivenUser, warn: Warn, table: EtcdTable): EtcdUser | undefined {
  const { etcdUsername: username, etcdPassword: password, etcdPasswordFile: passwordFile } = given;
  const better = `${environmentName(table.etcdPassword)} or ${flagName(table.etcdPasswordFile)}`;
  const source = settings.sourceOf(table.etcdPassword);
  if (password !== undefined && source === flagName(table.etcdPassword)) {
    warn(`${source} shows the password to every user of this host, in the process list: use ${better}`);
  }
  if (password !== undefined && passwordFile !== undefined) {
    throw new UsageError(
      'BAD_VALUE',
      `${source} and ${settings.sourceOf(table.etcdPasswordFile)} both give a password: give one of them`,
    );
  }
  if (username !== undefined && password !== undefined) return { username, password };
  if (username !== undefined && passwordFile !== undefined) return { username, passwordFile };
  if (username !== undefined) {
    const name = settings.sourceOf(table.etcdUsername);
    throw new UsageError('MISSING_VALUE', `${name} needs a password: ${better}`);
  }
  if (password !== undefined || passwordFile !== undefined) {
    warn(`the password for etcd is not used, because no ${flagName(table.etcdUsername)} is given`);
  }
  return undefined;
}
