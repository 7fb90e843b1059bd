import type { KeyValue } from '../../src/subnet/registry/registry.ts';
import { prefix, type SimHost } from '../host.ts';
import { atOnce, type Fault, type Faults, onAll } from './fault.ts';
import { configText, holderOf, selfOf, subnetsPrefix } from './oracle.ts';
import type { FaultEvent } from './scenario.ts';
import type { World } from './world.ts';

const short = [1, 60_000] as const;
const long = [1_000, 300_000] as const;

/** Not among those that hosts lease: what an operator takes from a host is told to him, and stays. */
const junkKeys = [
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
function hostileLease({ address, addressIPv6 }: SimHost, pool: number, dice: number) {
  const inPool = 10 + (dice % pool);
  const all: readonly (readonly [name: string, address: string, addressIPv6?: string])[] = [
    ['10.88.1.0-24', address],
    ['127.0.0.0-8', '10.211.9.9'],
    ['224.0.0.0-24', '10.211.9.9'],
    ['10.211.0.0-16', '10.211.9.9'],
    ['0.0.0.0-1', '10.211.9.9'],
    ['10.88.2.0-24', '192.0.2.9'],
    ['10.88.3.0-24', '127.0.0.1'],
    ['10.88.4.0-24', '10.88.4.1'],
    ['10.88.5.0-24', '10.211.9.10'],
    // A part of the network that all hosts are connected to: it would win over the kernel's own route.
    ['10.211.9.0-24', '10.211.8.9'],
    ['10.211.55.0-25', '10.211.8.9'],
    ['10.208.0.0-13', '10.211.8.9'],
    // In subnets that hosts lease, by other lengths.
    [`172.20.${inPool - (inPool % 2)}.0-23`, '10.211.8.10'],
    [`172.20.${inPool}.128-25`, '10.211.8.11'],
    ['172.20.0.0-16', '10.211.8.12'],
    // Its own subnet, and another's IPv6 half.
    [`172.20.209.0-24&fc00:0:0:${(0x10 + (dice % 4)).toString(16)}::-64`, '10.211.8.13', 'fd00:55::813'],
    ['172.20.208.0-24&fd00:55::-64', '10.211.8.14', 'fd00:56::814'],
    ['172.20.207.0-24&fc00:0:0:f0::-64', '10.211.8.15', addressIPv6],
  ];
  const [name, publicIP, publicIPv6 = null] = all[dice % all.length] ?? ['', ''];
  return {
    name,
    value: JSON.stringify({ PublicIP: publicIP, PublicIPv6: publicIPv6, BackendType: 'host-gw' }),
  };
}

/** A key that some host of this cluster holds. */
function someKey(world: World, dice: number): string | undefined {
  const isHosts = ({ key }: KeyValue) => !world.copies.has(key);
  const keys = world.kvs.filter(
    (kv) => isHosts(kv) && world.hosts.some((host) => world.hasBeen(host, holderOf(kv))),
  );
  return keys[dice % Math.max(1, keys.length)]?.key;
}

/** Whether a key names the subnet that a host works with, whoever has the key just now. */
function isOwnSubnet(host: SimHost, key: string): boolean {
  const name = selfOf(host, 4)?.subnet.text.replace('/', '-');
  return name !== undefined && key === subnetsPrefix + name;
}

function pick(texts: readonly string[], dice: number): string {
  return texts[dice % texts.length] ?? '';
}

function peer(address: string): string {
  return JSON.stringify({ PublicIP: address, PublicIPv6: null, BackendType: 'host-gw' });
}

/** A key that somebody puts, to be taken back later. */
interface Put {
  readonly name: string;
  readonly value: string;
}

/** What is put; undefined: nothing. */
type Choose = (world: World, event: FaultEvent) => Put | undefined;

/** Puts what `choose` says for a while. */
function putting(weight: number, lastsMs: Fault['lastsMs'], choose: Choose): Fault {
  return onAll(weight, lastsMs, (world, event) => {
    const put = choose(world, event);
    if (put === undefined) return undefined;
    const key = subnetsPrefix + put.name;
    world.cluster.etcd.put(key, put.value);
    world.lent.push([key, put.value]);
    return () => world.takeBack(key, put.value);
  });
}

const lingering = (weight: number, choose: Choose): Fault => ({
  ...putting(weight, long, choose),
  lingers: true,
});

const anyPeer = '{"PublicIP":"10.211.9.9","BackendType":"host-gw"}';

/** What people and other programs do to keys. */
export const operatorFaults: Faults = {
  'junk key': lingering(3, (_, { dice }) => ({ name: pick(junkKeys, dice), value: anyPeer })),
  'junk value': lingering(2, (_, { dice }) => {
    return { name: `10.99.${dice % 200}.0-24`, value: pick(junkValues, dice) };
  }),
  'hostile lease': lingering(4, (world, { host, dice }) => {
    return hostileLease(world.host(host), world.scenario.pool, dice);
  }),
  'lease of another backend': lingering(1, (_, { dice }) => {
    return { name: `10.66.${dice % 200}.0-24`, value: anyPeer.replace('host-gw', 'vxlan') };
  }),
  "spoil a host's value": onAll(1, atOnce, (world, { dice }) => {
    const key = someKey(world, dice);
    const kv = key === undefined ? undefined : world.cluster.etcd.get(key);
    if (kv) world.cluster.etcd.put(kv.key, pick(junkValues, dice), kv.lease);
  }),
  'delete a key': onAll(3, atOnce, (world, { dice }) => {
    const key = someKey(world, dice);
    if (key !== undefined) world.cluster.etcd.delete(key);
  }),
  'delete all keys': onAll(1, atOnce, (world) => {
    world.cluster.etcd.delete(...world.keys.keys());
  }),
  "give a host's subnet to another": putting(2, short, (world, { dice }) => {
    const name = someKey(world, dice)?.slice(subnetsPrefix.length);
    return name === undefined ? undefined : { name, value: peer(`10.211.7.${1 + (dice % 200)}`) };
  }),
  // In the network beside the pool, or outside of it.
  'peers come and go': putting(5, short, (_, { dice }) => {
    const place =
      dice & 64 ? `172.20.${[0, 1, 2, 4, 5, 6, 7, 246, 250, 254][dice % 10]}` : `10.55.${dice % 20}`;
    return { name: `${place}.0-24`, value: peer(`10.211.6.${1 + (dice % 97)}`) };
  }),
  'reserve a subnet for a host': onAll(2, short, async (world, { host: index, dice }) => {
    const host = world.host(index);
    const key = `${subnetsPrefix}172.20.${10 + (dice % world.scenario.pool)}.0-24`;
    const taken = world.keys.has(key) || world.hosts.some((one) => isOwnSubnet(one, key));
    if (taken || world.scenario.ipv6 || dice % 3 === 0) return undefined;
    world.cluster.etcd.put(key, JSON.stringify({ PublicIP: host.address, PublicIPv6: null }));
    world.reserved.add(key);
    await world.down(host);
    return () => world.up(host);
  }),
  'edit the configuration': onAll(1, short, (world, { dice }) => {
    const { pool, ipv6 } = world.scenario;
    const texts = ['{', '{"Network":"nonsense"}', configText(pool + 1, ipv6), configText(pool, !ipv6)];
    const text = texts[dice % texts.length] ?? '';
    world.cluster.etcd.put(`${prefix}/config`, text);
    return () => world.cluster.etcd.put(`${prefix}/config`, configText(pool, ipv6));
  }),
  'delete the configuration': onAll(1, short, (world) => {
    const { pool, ipv6 } = world.scenario;
    world.cluster.etcd.delete(`${prefix}/config`);
    return () => world.cluster.etcd.put(`${prefix}/config`, configText(pool, ipv6));
  }),
};
