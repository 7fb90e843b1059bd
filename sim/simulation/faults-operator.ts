import { prefix, type SimHost } from '../host.ts';
import type { Fault } from './faults.ts';
import { configText, holderOf, selfOf, subnetsPrefix } from './oracle.ts';
import type { World } from './world.ts';

const short = [1, 60_000] as const;
const long = [1_000, 300_000] as const;

const junkKeys = [
  // Not among those that hosts lease: what an operator takes from a host is told to him, and stays.

  'garbage',
  '',
  '172.20.3.0',
  '172.20.3.0-33',
  '172.20.3.5-24',
  '172.20.3.0-24&',
  '10.0.0.0-0',
  '172.20.3.0-24/x',
  '999.1.1.0-24',
  '0.0.0.0-0&fc00::-64',
];
const junkValues = [
  '',
  'null',
  '[]',
  '{"PublicIP":5}',
  '{"PublicIP":"10.211.999.1"}',
  `{"x":${'['.repeat(2000)}`,
  '{"PublicIP":null,"BackendType":"host-gw"}',
  '\u001b[2J',
];
/** Well-formed leases that nobody, or not everybody, may obey. */
const hostileLeases = (address: string): readonly (readonly [string, string])[] => [
  ['10.88.1.0-24', address],
  ['127.0.0.0-8', '10.211.9.9'],
  ['224.0.0.0-24', '10.211.9.9'],
  ['10.211.0.0-16', '10.211.9.9'],
  ['0.0.0.0-1', '10.211.9.9'],
  ['10.88.2.0-24', '192.0.2.9'],
  ['10.88.3.0-24', '127.0.0.1'],
  ['10.88.4.0-24', '10.88.4.1'],
  ['10.88.5.0-24', '10.211.9.10'],
];

/** A key that some host of this cluster holds. */
function someKey(world: World, dice: number): string | undefined {
  const keys = world.kvs.filter((kv) => world.hosts.some((host) => world.hasBeen(host, holderOf(kv))));
  return keys[dice % Math.max(1, keys.length)]?.key;
}

/** Whether a key names the subnet that a host works with, whoever has the key just now. */
function isOwnSubnet(host: SimHost, key: string): boolean {
  const name = selfOf(host, 4)?.subnet.text.replace('/', '-');
  return name !== undefined && key === subnetsPrefix + name;
}

/** Deletes a key if it still is what was put there. */
function takeBack({ cluster: { etcd } }: World, key: string, value: string): void {
  if (etcd.get(key)?.value === value) etcd.delete(key);
}

/** What people and other programs do to keys. */
export const operatorFaults: Readonly<Record<string, Fault>> = {
  'junk key': {
    lingers: true,
    weight: 3,
    lastsMs: long,
    whom: 'all',
    apply: (world, { dice }) => {
      const key = subnetsPrefix + (junkKeys[dice % junkKeys.length] ?? '');
      const value = '{"PublicIP":"10.211.9.9","BackendType":"host-gw"}';
      world.cluster.etcd.put(key, value);
      return () => takeBack(world, key, value);
    },
  },
  'junk value': {
    lingers: true,
    weight: 2,
    lastsMs: long,
    whom: 'all',
    apply: (world, { dice }) => {
      const key = `${subnetsPrefix}10.99.${dice % 200}.0-24`;
      const value = junkValues[dice % junkValues.length] ?? '';
      world.cluster.etcd.put(key, value);
      return () => takeBack(world, key, value);
    },
  },
  'hostile lease': {
    lingers: true,
    weight: 3,
    lastsMs: long,
    whom: 'all',
    apply: (world, { host, dice }) => {
      const all = hostileLeases(world.host(host).address);
      const [name, address] = all[dice % all.length] as readonly [string, string];
      const value = JSON.stringify({ PublicIP: address, PublicIPv6: null, BackendType: 'host-gw' });
      world.cluster.etcd.put(subnetsPrefix + name, value);
      return () => takeBack(world, subnetsPrefix + name, value);
    },
  },
  'lease of another backend': {
    lingers: true,
    weight: 1,
    lastsMs: long,
    whom: 'all',
    apply: (world, { dice }) => {
      const key = `${subnetsPrefix}10.66.${dice % 200}.0-24`;
      const value = '{"PublicIP":"10.211.9.9","BackendType":"vxlan","BackendData":{"VtepMAC":"x"}}';
      world.cluster.etcd.put(key, value);
      return () => takeBack(world, key, value);
    },
  },
  "spoil a host's value": {
    weight: 1,
    lastsMs: [1, 2],
    whom: 'all',
    apply: (world, { dice }) => {
      const key = someKey(world, dice);
      const kv = key === undefined ? undefined : world.cluster.etcd.get(key);
      if (kv) world.cluster.etcd.put(kv.key, junkValues[dice % junkValues.length] ?? '', kv.lease);
      return undefined;
    },
  },
  'delete a key': {
    weight: 3,
    lastsMs: [1, 2],
    whom: 'all',
    apply: (world, { dice }) => {
      const key = someKey(world, dice);
      if (key !== undefined) world.cluster.etcd.delete(key);
      return undefined;
    },
  },
  'delete all keys': {
    weight: 1,
    lastsMs: [1, 2],
    whom: 'all',
    apply: (world) => {
      world.cluster.etcd.delete(...world.keys.keys());
      return undefined;
    },
  },
  "give a host's subnet to another": {
    weight: 2,
    lastsMs: short,
    whom: 'all',
    apply: (world, { dice }) => {
      const key = someKey(world, dice);
      if (key === undefined) return undefined;
      const value = `{"PublicIP":"10.211.7.${1 + (dice % 200)}","PublicIPv6":null,"BackendType":"host-gw"}`;
      world.cluster.etcd.put(key, value);
      return () => takeBack(world, key, value);
    },
  },
  'peers come and go': {
    weight: 4,
    lastsMs: short,
    whom: 'all',
    apply: (world, { dice }) => {
      const key = `${subnetsPrefix}10.55.${dice % 20}.0-24`;
      const value = `{"PublicIP":"10.211.6.${1 + (dice % 97)}","PublicIPv6":null,"BackendType":"host-gw"}`;
      world.cluster.etcd.put(key, value);
      return () => takeBack(world, key, value);
    },
  },
  'reserve a subnet for a host': {
    weight: 2,
    lastsMs: short,
    whom: 'all',
    apply: async (world, { host: index, dice }) => {
      const host = world.host(index);
      const key = `${subnetsPrefix}172.20.${10 + (dice % world.scenario.pool)}.0-24`;
      const taken = world.keys.has(key) || world.hosts.some((one) => isOwnSubnet(one, key));
      if (taken || world.scenario.ipv6 || dice % 3 === 0) return undefined;
      world.cluster.etcd.put(key, JSON.stringify({ PublicIP: host.address, PublicIPv6: null }));
      await world.down(host);
      return () => world.up(host);
    },
  },
  'edit the configuration': {
    weight: 1,
    lastsMs: short,
    whom: 'all',
    apply: (world, { dice }) => {
      const { pool, ipv6 } = world.scenario;
      const texts = ['{', '{"Network":"nonsense"}', configText(pool + 1, ipv6), configText(pool, !ipv6)];
      const text = texts[dice % 3] ?? '';
      world.cluster.etcd.put(`${prefix}/config`, text);
      return () => world.cluster.etcd.put(`${prefix}/config`, configText(pool, ipv6));
    },
  },
  'delete the configuration': {
    weight: 1,
    lastsMs: short,
    whom: 'all',
    apply: (world) => {
      const { pool, ipv6 } = world.scenario;
      world.cluster.etcd.delete(`${prefix}/config`);
      return () => world.cluster.etcd.put(`${prefix}/config`, configText(pool, ipv6));
    },
  },
};
