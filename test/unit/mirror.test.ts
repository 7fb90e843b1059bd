import { beforeEach, describe, expect, it } from 'vitest';
import { subnet } from '../../sim/leases.ts';
import { Mirror } from '../../src/backend/hostgw/mirror.ts';
import type { KernelEvent, Link, LinkAddress, Route } from '../../src/kernel/kernel.ts';
import { address, blackhole, dst, eth0, foreign, link, other, ownership4, route } from './plan-table.ts';

const added = (given: Route, over: { replaced?: boolean; appended?: boolean } = {}): KernelEvent => ({
  type: 'route-added',
  route: given,
  replaced: false,
  appended: false,
  ...over,
});
const removed = (given: Route): KernelEvent => ({ type: 'route-removed', route: given });
const changed = (over: Partial<Link>): KernelEvent => ({ type: 'link-changed', link: link(over) });
const arrived = (text: string, over?: Partial<LinkAddress>): KernelEvent => ({
  type: 'address-added',
  address: address(text, over),
});
const left = (text: string, over?: Partial<LinkAddress>): KernelEvent => ({
  type: 'address-removed',
  address: address(text, over),
});

let mirror: Mirror;
beforeEach(() => {
  mirror = new Mirror('eth0', ownership4);
  mirror.reset({ links: [link()], addresses: [address('10.211.55.100')], routes: [route()] });
});

describe('routes told by events', () => {
  it.each<[string, KernelEvent, readonly Route[] | undefined]>([
    ['first of their key', added(foreign()), [foreign(), route()]],
    ['last of their key', added(foreign(), { appended: true }), [route(), foreign()]],
    ['in place of the first', added(foreign(), { replaced: true }), [foreign()]],
    ['under another metric', added(foreign({ metric: 5 })), [foreign({ metric: 5 }), route()]],
    ['already seen by the dump', added(route()), [route()]],
    ['gone', removed(route()), undefined],
    ['gone already', removed(foreign()), [route()]],
    ['of IPv6', added(foreign({ family: 6 })), [route()]],
  ])('are kept: %s', (_what, event, expected) => {
    expect(mirror.apply(event).stale).toBe(false);
    expect(mirror.get(dst)).toEqual(expected);
  });

  it('lose only one of two that look alike', () => {
    const alike = foreign({ special: true });
    mirror.apply(added(alike, { appended: true }));
    mirror.reset({ links: [link()], addresses: [], routes: [alike, alike] });
    mirror.apply(removed(alike));
    expect(mirror.get(dst)).toEqual([alike]);
  });

  it('leave the order open, and say so, when a dump was made meanwhile', () => {
    expect(mirror.apply(added(foreign(), { replaced: true }), true).stale).toBe(true);
    expect(mirror.apply(added(foreign({ dst: '10.7.0.0/16' })), true).stale).toBe(false);
    expect(mirror.apply(added(foreign()), true).stale).toBe(false);
  });
});

describe('what the kernel flushes without a word', () => {
  it.each<[string, KernelEvent]>([
    ['a link that goes down', changed({ up: false })],
    ['a link that is deleted', { type: 'link-removed', linkIndex: eth0, name: 'eth0' }],
    ['an address that goes', left('10.211.55.100')],
    ['lost events', { type: 'overflow' }],
  ])('makes the mirror stale: %s', (_what, event) => {
    expect(mirror.apply(event)).toMatchObject({ stale: true, surroundings: true });
  });

  it.each<[string, KernelEvent]>([
    ['carrier lost', changed({ carrier: false })],
    ['another MTU', changed({ mtu: 9000 })],
    ['an address renewed', arrived('10.211.55.100', { permanent: false })],
    ['an IPv6 address gone', left('fd00::1', { family: 6 })],
    ['another link that comes down', changed({ index: 7, name: 'veth7', up: false })],
    ['another link that goes', { type: 'link-removed', linkIndex: 7, name: 'veth7' }],
  ])('is not the case: %s', (_what, event) => {
    expect(mirror.apply(event)).toEqual({ dsts: [], stale: false, surroundings: false });
  });

  it('includes routes that prefer an address of another link, and those whose links cannot be seen', () => {
    mirror.reset({ links: [link()], addresses: [], routes: [foreign({ source: '10.8.0.1' })] });
    expect(mirror.apply(left('10.8.0.1', { linkIndex: 9 })).stale).toBe(true);
    const unseen = foreign({ special: true });
    mirror.reset({ links: [link({ index: 9, name: 'x' })], addresses: [], routes: [unseen] });
    expect(mirror.apply({ type: 'link-removed', linkIndex: 9, name: 'x' }).stale).toBe(true);
  });
});

describe('our interface', () => {
  it('is known by its name through deletion and return', () => {
    expect(mirror.link).toEqual({ index: eth0 });
    mirror.apply({ type: 'link-removed', linkIndex: eth0, name: 'eth0' });
    expect(mirror.link).toEqual({ problem: 'interface eth0 does not exist' });
    expect(mirror.apply(changed({ index: 9, up: false })).surroundings).toBe(true);
    expect(mirror.link).toEqual({ index: 9, problem: 'interface eth0 is down' });
    expect(mirror.apply(changed({ index: 9 })).surroundings).toBe(true);
    expect(mirror.link).toEqual({ index: 9 });
  });

  it('can reach more after a new address anywhere or a network on it', () => {
    const onLink = { ...foreign({ dst: '10.44.0.0/24' }), gateway: undefined };
    const { gateway: _gateway, ...direct } = onLink;
    expect(mirror.apply(added(direct)).surroundings).toBe(true);
    expect(mirror.apply(added({ ...direct, linkIndex: 9 })).surroundings).toBe(false);
    expect(mirror.apply(added(foreign({ gateway: other }))).surroundings).toBe(false);
    expect(mirror.apply(arrived('10.9.0.1', { linkIndex: 9 })).surroundings).toBe(true);
    expect(mirror.ownAddresses).toContain('10.9.0.1');
  });
});

describe('the mirror of IPv6', () => {
  const at = { family: 6, dst: 'fc00:0:1::/64', metric: 1024 } as const;
  const ours = route({ ...at, gateway: 'fd00:55::101' });
  const boot = route({ ...at, gateway: 'fd00:55::102', protocol: 3 });
  const dropped = blackhole(at);
  const multipath = { ...dropped, type: 'unicast', special: true } as const;
  const linkLocal = {
    ...blackhole({ family: 6, dst: 'fe80::/64', metric: 256, protocol: 2 }),
    type: 'unicast',
  } as const;
  const containers = { ...linkLocal, linkIndex: 9 };

  const told = (there: readonly Route[], event: KernelEvent) => {
    const six = new Mirror('eth0', { ...ownership4, network: subnet('fc00::/32'), subnetLength: 64 });
    six.reset({ links: [link()], addresses: [address('fd00:55::100', { family: 6 })], routes: there });
    const change = six.apply(event);
    const dsts = new Set([...there.map((one) => one.dst), ...change.dsts]);
    return { change, rest: [...dsts].flatMap((name) => six.get(name) ?? []) };
  };

  it.each<[string, readonly Route[], KernelEvent, readonly Route[]]>([
    ['new', [], added(ours), [ours]],
    ['in place of the only one', [boot], added(ours, { replaced: true }), [ours]],
    ['replaced by the same', [ours], added(ours, { replaced: true }), [ours]],
    ['several gateways at once', [], added(multipath), [multipath]],
    ['beside one without a gateway', [dropped], added(ours), [ours, dropped]],
    ['gone', [ours], removed(ours), []],
    ['of a container’s link', [linkLocal], added(containers), [containers, linkLocal]],
    ['of IPv4', [ours], added(route()), [ours]],
  ])('knows from the event alone: %s', (_what, there, event, expected) => {
    const { change, rest } = told(there, event);
    expect(change.stale).toBe(false);
    expect(rest).toEqual(expected);
  });

  it.each<[string, readonly Route[], KernelEvent]>([
    ['two merged', [ours], added(multipath, { appended: true })],
    ['one of several gateways gone', [multipath], removed(ours)],
    ['in place of one of two', [dropped, boot], added(ours, { replaced: true })],
    ['gone with a source that an address took along', [{ ...ours, source: 'fd00:55::100' }], removed(ours)],
  ])('needs a dump: %s', (_what, there, event) => {
    expect(told(there, event).change.stale).toBe(true);
  });

  it.each<[string, KernelEvent, boolean]>([
    ['our link down', changed({ up: false }), true],
    ['a global address', arrived('fd00:56::1', { family: 6 }), true],
    ['an address gone', left('fd00:55::100', { family: 6 }), true],
    ['a link-local one', arrived('fe80::1', { family: 6, scope: 'link' }), false],
    ['one of IPv4', arrived('10.211.55.9'), false],
  ])('judges gateways anew after %s, without a dump: each route that goes is told', (_what, event, anew) => {
    expect(told([ours], event).change).toEqual({ dsts: [], stale: false, surroundings: anew });
  });
});
