import { describe, expect, it } from 'vitest';
import { flagTable } from '../../src/daemon/options/table.ts';

type Row = readonly [names: string, fallback: string | undefined];

/** The contract's table of flags, row by row, with flanneld's defaults; then the flags flanneld does not have. */
const ROWS: readonly Row[] = [
  // Without http://127.0.0.1:4001, which has been dead since etcd v3.
  ['etcd-endpoints', 'http://127.0.0.1:2379'],
  ['etcd-prefix', '/coreos.com/network'],
  ['etcd-keyfile, etcd-certfile, etcd-cafile', undefined],
  ['etcd-username, etcd-password, etcd-password-file', undefined],
  ['iface', undefined],
  ['iface-regex', undefined],
  ['iface-can-reach', undefined],
  ['subnet-file', '/run/flannel/subnet.env'],
  ['public-ip, public-ipv6', undefined],
  ['subnet-lease-renew-margin', '60'],
  ['ip-masq', 'false'],
  ['ip-masq-fully-random-disable', 'false'],
  ['iptables-resync', '5'],
  ['iptables-forward-rules', 'true'],
  ['ip-blackhole-route', 'false'],
  ['healthz-ip', '0.0.0.0'],
  ['healthz-port', '0'],
  ['v', '0'],
  ['log-level, log-format', undefined],
];
const OURS: readonly Row[] = [
  ['docker-opts-file', '/run/docker_opts.env'],
  ['docker-opts-key', 'DOCKER_OPTS'],
  ['subnet-lease-ttl', '86400'],
  ['route-protocol', '102'],
  ['set-ip-forward', 'false'],
  ['iptables-forward-position', 'auto'],
  ['status-socket', undefined],
  ['help, version', undefined],
];

const BOOLEANS = ['ip-masq', 'ip-masq-fully-random-disable', 'iptables-forward-rules', 'ip-blackhole-route'];

describe('the table of flags', () => {
  it.each([...ROWS, ...OURS])('has %s with its default', (names, fallback) => {
    for (const name of names.split(', ')) {
      const flag = flagTable.find((row) => row.name === name);
      expect(flag, name).toBeDefined();
      expect(flag?.fallback).toBe(fallback);
    }
  });

  it('has nothing else, and nothing twice', () => {
    const names = [...ROWS, ...OURS].flatMap(([row]) => row.split(', '));
    expect(flagTable.map(({ name }) => name).toSorted()).toEqual(names.toSorted());
  });

  it('has booleans that never eat the next word, and no others', () => {
    const found = flagTable.filter((flag) => flag.boolean).map(({ name }) => name);
    expect(found.toSorted()).toEqual([...BOOLEANS, 'set-ip-forward', 'help', 'version'].toSorted());
  });

  it('has two flags that accumulate', () => {
    expect(flagTable.filter((flag) => flag.repeatable).map(({ name }) => name)).toEqual([
      'iface',
      'iface-regex',
    ]);
  });
});
