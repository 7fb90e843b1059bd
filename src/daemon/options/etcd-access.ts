import type { EtcdUser } from '../../subnet/etcd/security.ts';
import type { TlsFiles } from '../../subnet/etcd/tls-files.ts';
import type { Settings } from './command-line.ts';
import { type Endpoint, withOneScheme } from './endpoints.ts';
import { UsageError } from './errors.ts';
import { environmentName, flagName } from './flag.ts';
import { flags } from './table.ts';

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

/** Reads the flags about etcd and checks them against each other. Throws {@link UsageError}. */
export function etcdAccess(settings: Settings, warn: (message: string) => void): EtcdAccess {
  const etcdTls = tlsFiles(settings);
  const etcdUser = user(settings, warn);
  const parsed = settings.value(flags.etcdEndpoints);
  const etcdEndpoints = withOneScheme(parsed, etcdTls.certFile !== undefined, warn);
  if (etcdEndpoints[0]?.scheme === 'http' && Object.keys(etcdTls).length > 0) {
    warn(
      'the TLS files are not used, because the first etcd endpoint is one without TLS: write it as https://host:port',
    );
  }
  return {
    etcdEndpoints,
    etcdPrefix: settings.value(flags.etcdPrefix),
    etcdTls,
    ...(etcdUser === undefined ? {} : { etcdUser }),
  };
}

function tlsFiles(settings: Settings): TlsFiles {
  const caFile = settings.optional(flags.etcdCaFile);
  const certFile = settings.optional(flags.etcdCertFile);
  const keyFile = settings.optional(flags.etcdKeyFile);
  if ((certFile === undefined) !== (keyFile === undefined)) {
    const [there, missing] =
      certFile === undefined
        ? [flags.etcdKeyFile, flags.etcdCertFile]
        : [flags.etcdCertFile, flags.etcdKeyFile];
    throw new UsageError(
      'MISSING_VALUE',
      `${settings.sourceOf(there)} needs ${flagName(missing)}: a certificate is of use only with its key`,
    );
  }
  return {
    ...(caFile === undefined ? {} : { caFile }),
    ...(certFile === undefined || keyFile === undefined ? {} : { certFile, keyFile }),
  };
}

function user(settings: Settings, warn: (message: string) => void): EtcdUser | undefined {
  const username = settings.optional(flags.etcdUsername);
  const password = settings.optional(flags.etcdPassword);
  const passwordFile = settings.optional(flags.etcdPasswordFile);
  const better = `${environmentName(flags.etcdPassword)} or ${flagName(flags.etcdPasswordFile)}`;
  const source = settings.sourceOf(flags.etcdPassword);
  if (password !== undefined && source === flagName(flags.etcdPassword)) {
    warn(`${source} shows the password to every user of this host, in the process list: use ${better}`);
  }
  if (password !== undefined && passwordFile !== undefined) {
    throw new UsageError(
      'BAD_VALUE',
      `${source} and ${settings.sourceOf(flags.etcdPasswordFile)} both give a password: give one of them`,
    );
  }
  if (username !== undefined && password !== undefined) return { username, password };
  if (username !== undefined && passwordFile !== undefined) return { username, passwordFile };
  if (username !== undefined) {
    throw new UsageError(
      'MISSING_VALUE',
      `${settings.sourceOf(flags.etcdUsername)} needs a password: ${better}`,
    );
  }
  if (password !== undefined || passwordFile !== undefined) {
    warn(`the password for etcd is not used, because no ${flagName(flags.etcdUsername)} is given`);
  }
  return undefined;
}
