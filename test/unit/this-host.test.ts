import { afterEach, beforeEach, expect, it } from 'vitest';
import { LeaseWorld } from '../../sim/lease-world.ts';
import { addressesOfThisHost, type ThisHost } from '../../src/cli/this-host.ts';
import { RegistryError } from '../../src/subnet/registry/registry.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';

const hint = /\nA lease can be named, too: lease release SUBNET, or --public-ip=ADDRESS$/;
const config = '{"Network":"10.0.0.0/8","Backend":{"Type":"host-gw"}}';
const chosen = { name: 'eth0', index: 2, addresses: { ipv4: '10.211.0.1' } };

let world: LeaseWorld;

beforeEach(() => {
  world = new LeaseWorld();
});

afterEach(async () => {
  expect(await world.close()).toBe(true);
});

/** What it resolves to, or rejects with. */
async function ask(chooseInterface: ThisHost['chooseInterface'] = async () => chosen): Promise<unknown> {
  const registry = rotate(world.etcd.connect('admin'));
  const oldStore = { has: async () => false };
  const asking = addressesOfThisHost(
    { registry, oldStore, etcdPrefix: '/net', chooseInterface },
    new AbortController().signal,
  );
  let answer: unknown;
  void asking
    .catch((error: unknown) => error)
    .then((value) => {
      answer = value;
    });
  await world.clock.until('an answer', () => answer !== undefined, 60_000);
  registry.close();
  return answer;
}

it('the addresses that a lease of this host carries are those its daemon would choose', async () => {
  world.etcd.put('/net/config', config);
  expect(await ask()).toEqual(chosen.addresses);
});

it.each<[string, string | undefined, ThisHost['chooseInterface'] | undefined, RegExp]>([
  ['there is no configuration', undefined, undefined, /no network configuration|is no configuration/i],
  ['it cannot be read', '{', undefined, /^the network configuration at \/net\/config cannot be used: /],
  ['no interface can be chosen', config, async () => 'no default route', /^no default/],
])('when %s, that is said, and that a lease can be named', async (_, text, choose, reason) => {
  if (text !== undefined) world.etcd.put('/net/config', text);
  const answer = await ask(choose);
  expect(answer).toMatch(reason);
  expect(answer).toMatch(hint);
});

it('when etcd does not answer it is of no use to name one, and that is not said', async () => {
  world.etcd.stop('etcd-0');
  const error = await ask();
  expect(error).toBeInstanceOf(RegistryError);
  expect(String(error)).toContain('connection refused');
  expect(String(error)).not.toMatch(/can be named/);
  world.etcd.start('etcd-0');
});
