import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import { LensRegistry } from '../../sim/lens-registry.ts';
import type { SimLog } from '../../sim/log.ts';
import { SimOldStore } from '../../sim/old-store.ts';
import { SimPart } from '../../sim/part.ts';
import type { NetworkConfig } from '../../src/subnet/config/config.ts';
import { waitForConfig } from '../../src/subnet/config/source.ts';
import { RegistryError } from '../../src/subnet/registry/registry.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';

const good = '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}';

let part: SimPart;
let clock: VirtualClock;
let log: SimLog;
let etcd: SimEtcd;
let registry: LensRegistry;
let oldStore: SimOldStore;
let outcome: { config?: NetworkConfig; error?: unknown };

beforeEach(() => {
  part = new SimPart();
  ({ clock, log } = part);
  etcd = new SimEtcd({ clock, members: ['m0', 'm1'] });
  registry = new LensRegistry(rotate(etcd.connect('h0')));
  for (const each of [etcd, registry]) part.atEnd(() => each.close());
  oldStore = new SimOldStore();
  outcome = {};
});

afterEach(() => part.stop());

async function wait(etcdPrefix = '/net'): Promise<void> {
  part.begin((signal) =>
    waitForConfig({ ...part.outside, registry, oldStore, etcdPrefix }, signal).then(
      (config) => Object.assign(outcome, { config }),
      (error: unknown) => Object.assign(outcome, { error }),
    ),
  );
  await clock.advance(10);
}

/** After hours in few lines it takes the configuration within about a second, and all is well. */
async function expectFound(): Promise<void> {
  expect(log.lines.length).toBeLessThan(7);
  etcd.put('/net/config', good);
  await clock.advance(1_100);
  expect(outcome.config).toBeDefined();
  expect(part.trouble.current).toEqual([]);
}

const messages = () => log.lines.map(({ message }) => message);

describe('waitForConfig', () => {
  it('gives the configuration that is there, and says nothing', async () => {
    etcd.put('/net/config', good);
    await wait();
    expect(outcome.config?.ipv4?.network.text).toBe('10.5.0.0/16');
    expect(log.lines).toEqual([]);
    expect(etcd.calls.range).toBe(1);
  });

  it('warns once of each thing that it tolerates', async () => {
    etcd.put('/net/config', good.replace('{', '{"SubnetLenn":24,'));
    await wait();
    expect(messages()).toHaveLength(1);
    expect(messages()[0]).toMatch(/^\/net\/config: .*SubnetLenn.*SubnetLen/);
  });

  it('says where it looked and what to do, in few lines, and finds the configuration within a second', async () => {
    await wait();
    await clock.advance(7_200_000);
    expect(messages()[0]).toBe(
      'no network configuration at /net/config (etcd http://m0:2379, v3 API). No other configuration was found in it. ' +
        `Store one with: etcdctl put /net/config '{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}'`,
    );
    await expectFound();
    expect(messages().at(-1)).toBe('found the network configuration at /net/config');
  }, 60_000);

  it.each([
    ['/coreos.com/network/config', '/coreos.com/network'],
    ['/net/network/subnets/10.5.1.0-24', '/net/network'],
    ['/n\u001b[2J/config', '/n\\u001b[2J'],
  ])('names what lies near: %j', async (key, prefix) => {
    etcd.put(key, good);
    await wait();
    expect(messages()[0]).toContain(`A network is configured under ${prefix}: is --etcd-prefix right?`);
    // It looks again now and then.
    etcd.delete(key);
    await clock.advance(62_000);
    expect(messages().at(-1)).toContain('No other configuration was found');
  });

  it.each([
    [
      '/net/config',
      /The v2 store, .*, has one there \(ETCDCTL_API=2 etcdctl get \/net\/config\)\. Copy it and the leases there: flanneld-ts migrate$/,
    ],
    ['/nets/config', /No other configuration was found in it\. Store/],
  ])('says whether the v2 store has the configuration: %s', async (key, message) => {
    oldStore.keys = new Set([key]);
    await wait();
    expect(messages()[0]).toMatch(message);
  });

  it('does not name its own prefix when only leases are there', async () => {
    etcd.put('/net/subnets/10.5.1.0-24', '{}');
    await wait();
    expect(messages()[0]).toContain('No other configuration was found');
  });

  it('does not say whether there are other configurations when it may not look for them', async () => {
    registry.onRange = ({ key }) => {
      if (key === '\0') throw new RegistryError('PERMISSION_DENIED', registry.endpoint, 'permission denied');
    };
    await wait();
    expect(messages()[0]).toMatch(/v3 API\)\. Store one with/);
  });

  it.each([
    ['{', /cannot be used: it is not a JSON object/],
    [good.replace('host-gw', 'vxlan'), /at \/net\/config cannot be used: Backend.Type is "vxlan"/],
  ])(
    'waits while the configuration is wrong, and says why: %s',
    async (text, message) => {
      etcd.put('/net/config', text);
      await wait();
      await clock.advance(7_200_000);
      expect(messages()[0]).toMatch(message);
      await expectFound();
    },
    60_000,
  );

  it('always says what is the matter now: wrong, then missing, then wrong in another way', async () => {
    etcd.put('/net/config', '{');
    await wait();
    await clock.advance(2_000);
    etcd.delete('/net/config');
    await clock.advance(2_000);
    expect(part.trouble.current.join()).toContain('no network configuration at /net/config');
    etcd.put('/net/config', good.replace('host-gw', 'udp'));
    await clock.advance(2_000);
    expect(part.trouble.current.join()).toContain('"udp"');
    expect(messages()).toHaveLength(3);
  });

  it('waits for etcd for hours in a handful of lines that name its endpoints', async () => {
    etcd.stop('m0');
    etcd.stop('m1');
    await wait();
    await clock.advance(7_200_000);
    expect(messages()[0]).toMatch(
      /^waiting for etcd.*http:\/\/m0:2379, http:\/\/m1:2379: connection refused/,
    );
    etcd.start('m0');
    etcd.start('m1');
    await expectFound();
  }, 60_000);

  it.each([0, 10])(
    'ends with the reason of its signal, in a call and in a wait: %i ms',
    async (advanceMs) => {
      etcd.cut('h0');
      void wait();
      await clock.advance(advanceMs);
      await part.stop();
      expect(outcome.error).toEqual(new Error('stopped'));
    },
  );
});
