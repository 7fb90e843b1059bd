import { type ParsedEndpoint, parseEndpoints } from './endpoints.ts';
import type { Flag } from './flag.ts';
import { anyText, filePathOrNone, textOrNone } from './values.ts';

/** How etcd is reached, and where in it the network is. */
export const etcdFlags = {
  etcdEndpoints: {
    name: 'etcd-endpoints',
    group: 'etcd',
    placeholder: 'URL,…',
    describe:
      'etcd members: http://host:port, https://host:port or host:port (TLS when a certificate is given); the first one decides for all whether TLS is used',
    fallback: 'http://127.0.0.1:2379',
    parse: parseEndpoints,
    emptyIsAbsent: true,
    sysconfig: ['FLANNEL_ETCD_ENDPOINTS', 'FLANNEL_ETCD'],
  } satisfies Flag<readonly ParsedEndpoint[]>,
  etcdPrefix: {
    name: 'etcd-prefix',
    group: 'etcd',
    placeholder: 'KEY',
    describe: 'prefix of the keys in etcd: KEY/config and KEY/subnets/…',
    fallback: '/coreos.com/network',
    parse: anyText,
    emptyIsAbsent: true,
    sysconfig: ['FLANNEL_ETCD_PREFIX', 'FLANNEL_ETCD_KEY'],
  } satisfies Flag<string>,
  etcdCaFile: {
    name: 'etcd-cafile',
    group: 'etcd',
    placeholder: 'PATH',
    describe: 'certificate of the authority that signed those of etcd',
    parse: filePathOrNone,
  } satisfies Flag<string | undefined>,
  etcdCertFile: {
    name: 'etcd-certfile',
    group: 'etcd',
    placeholder: 'PATH',
    describe: 'certificate to show to etcd; goes with --etcd-keyfile',
    parse: filePathOrNone,
  } satisfies Flag<string | undefined>,
  etcdKeyFile: {
    name: 'etcd-keyfile',
    group: 'etcd',
    placeholder: 'PATH',
    describe: 'its private key',
    parse: filePathOrNone,
  } satisfies Flag<string | undefined>,
  etcdUsername: {
    name: 'etcd-username',
    group: 'etcd',
    placeholder: 'NAME',
    describe: 'user of etcd; needs a password',
    parse: textOrNone,
  } satisfies Flag<string | undefined>,
  etcdPassword: {
    name: 'etcd-password',
    group: 'etcd',
    placeholder: 'PASSWORD',
    describe: 'its password; seen in the process list when given as a flag',
    parse: textOrNone,
  } satisfies Flag<string | undefined>,
  etcdPasswordFile: {
    name: 'etcd-password-file',
    group: 'etcd',
    placeholder: 'PATH',
    describe: 'file that holds the password, alone on its first line',
    parse: filePathOrNone,
  } satisfies Flag<string | undefined>,
} as const;
