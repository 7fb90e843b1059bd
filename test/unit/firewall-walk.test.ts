import { describe, expect, it } from 'vitest';
import { judge, type Passage } from '../../src/firewall/blockages.ts';
import { iptablesFilter, nftFilter } from '../../src/firewall/filters.ts';
import { parseSaveAll } from '../../src/firewall/iptables-save.ts';
import { ipv4, ipv6 } from '../contract/firewall-world.ts';

/** The network 10.5.0.0/16, of which this host has 10.5.7.0/24. */
const passage: Passage = { ...ipv4, uplink: 'eth0', bridge: 'docker0' };

/** `closed in`, `closed in,out`, `partly …`; undefined when everything passes. */
function verdictOf(found: ReturnType<typeof judge>): string | undefined {
  return found.map(({ effect, directions }) => `${effect} ${directions.join()}`).join('; ') || undefined;
}

function ofIptables(lines: readonly string[], table = 'filter', of: Passage = passage): string | undefined {
  const input = [`*${table}`, ':FORWARD ACCEPT [0:0]', ...lines, 'COMMIT', ''].join('\n');
  return verdictOf(
    [...parseSaveAll(input)].flatMap(([name, saved]) =>
      judge(iptablesFilter('iptables', name, saved, 4), of),
    ),
  );
}

describe('rules of iptables', () => {
  it.each<readonly [string, string | undefined]>([
    ['-j DROP', 'closed in,out'],
    ['-j REJECT --reject-with icmp-host-prohibited', 'closed in,out'],
    ['-m comment --comment "a -s b" -j DROP', 'closed in,out'],
    ['-j LOG --log-prefix "DROP "', undefined],
    ['-s 10.5.0.0/16 -j DROP', 'closed in,out'],
    ['-s 10.5.7.0/24 -j DROP', 'closed out'],
    ['! -s 10.5.7.0/24 -j DROP', 'closed in'],
    ['-d 10.5.7.0/24 -j DROP', 'closed in'],
    ['-d 10.5.7.2/32 -j DROP', 'partly in'],
    ['-s 10.5.9.0/24 -j DROP', 'partly in'],
    ['-s 192.168.0.0/16 -j DROP', undefined],
    ['-i docker0 -j DROP', 'closed out'],
    ['-i eth+ -o docker+ -j DROP', 'closed in'],
    ['! -i docker0 -o docker0 -j DROP', 'closed in'],
    ['-i br-1 -j DROP', undefined],
    ['-p tcp -m tcp --dport 25 -j DROP', 'partly in,out'],
    ['-m conntrack --ctstate INVALID -j DROP', undefined],
    ['-m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP', 'closed in,out'],
    ['-m state --state NEW -j DROP', 'closed in,out'],
    ['-m conntrack --ctstatus DNAT -j DROP', undefined],
    ['-m mark --mark 0x8000/0x8000 -j DROP', undefined],
    ['-m mark ! --mark 0x8000/0x8000 -j DROP', 'closed in,out'],
    ['-m addrtype --dst-type LOCAL -j DROP', undefined],
    ['-m rpfilter --validmark --invert -j DROP', undefined],
    ['-m physdev --physdev-is-bridged -j DROP', undefined],
    ['-m set --match-set blocked src -j DROP', 'partly in,out'],
    ['-m limit --limit 5/sec -j DROP', 'partly in,out'],
  ])('%s: %s', (rule, expected) => {
    expect(ofIptables([`-A FORWARD ${rule}`])).toBe(expected);
  });

  it.each<readonly [string, readonly string[], string | undefined]>([
    ['an accept before it', ['-A FORWARD -s 10.5.0.0/16 -j ACCEPT', '-A FORWARD -j DROP'], undefined],
    ['an accept of some', ['-A FORWARD -p tcp -j ACCEPT', '-A FORWARD -j DROP'], 'partly in,out'],
    ['a policy', [':FORWARD DROP [3:4]'], 'closed in,out'],
    [
      'a chain that returns',
      [':A - [0:0]', '-A FORWARD -j A', '-A A -s 10.0.0.0/8 -j RETURN', '-A A -j DROP'],
      undefined,
    ],
    [
      'a chain that leads on',
      [':A - [0:0]', ':B - [0:0]', '-A FORWARD -i eth0 -j A', '-A A -g B', '-A A -j ACCEPT', '-A B -j DROP'],
      'closed in',
    ],
    [
      'a chain gone to whose end is the end of its caller',
      [':A - [0:0]', '-A FORWARD -g A', '-A FORWARD -j DROP', '-A A -s 192.168.0.0/16 -j DROP'],
      undefined,
    ],
    ['a chain that may drop', [':A - [0:0]', '-A FORWARD -p udp -j A', '-A A -j DROP'], 'partly in,out'],
    ['a target that nobody knows', ['-A FORWARD -j SOMETHING'], undefined],
  ])('%s', (_, lines, expected) => {
    const declared = lines.filter((line) => line.startsWith(':'));
    expect(ofIptables([...declared, ...lines.filter((line) => !line.startsWith(':'))])).toBe(expected);
  });

  it('decides nothing about a bridge that is not known', () => {
    const { bridge: _, ...other } = passage;
    expect(ofIptables(['-A FORWARD ! -i docker0 -o docker0 -j DROP'], 'filter', other)).toBe('partly in');
  });

  it('walks a chain once, however many rules lead to it', () => {
    const depth = 15;
    const declared = Array.from({ length: depth }, (_, at) => `:C${at} - [0:0]`);
    const rules = Array.from({ length: depth - 1 }, (_, at) =>
      Array.from({ length: 40 }, () => `-A C${at} -p tcp -j C${at + 1}`),
    ).flat();
    expect(ofIptables([...declared, '-A FORWARD -j C0', ...rules, `-A C${depth - 1} -j DROP`])).toBe(
      'partly in,out',
    );
  });
});

const eq = (left: object, right: unknown, op = '==') => ({ match: { op, left, right } });
const meta = (key: string) => ({ meta: { key } });
const address = (field: string, protocol = 'ip') => ({ payload: { protocol, field } });
const net = (addr: string, len: number) => ({ prefix: { addr, len } });
const drop = { drop: null };
const accept = { accept: null };

function ofNft(
  rules: readonly (readonly object[])[],
  chain: object = {},
  of: Passage = passage,
  more: readonly object[] = [],
): string | undefined {
  const place = { family: 'inet', table: 't' };
  const base = { ...place, name: 'f', type: 'filter', hook: 'forward', prio: 0, policy: 'accept', ...chain };
  const items = [
    { table: { family: 'inet', name: 't' } },
    ...more,
    { chain: base },
    ...rules.map((expr, handle) => ({ rule: { ...place, ...chain, chain: 'f', handle, expr } })),
  ];
  return verdictOf(nftFilter(JSON.stringify({ nftables: items })).flatMap((table) => judge(table, of)));
}

describe('rules of nft', () => {
  const of6: Passage = { ...ipv6, uplink: 'eth0', bridge: 'docker0' };
  const byInterface = Object.entries({ eth0: drop, docker0: accept });
  const pairs = { set: [{ concat: ['eth0', 'docker0'] }] };
  it.each<readonly [string, readonly object[], string | undefined]>([
    ['a counter', [{ counter: { packets: 0, bytes: 0 } }, drop], 'closed in,out'],
    ['a reject', [{ reject: { type: 'icmpx', expr: 'admin-prohibited' } }], 'closed in,out'],
    ['a network', [eq(address('saddr'), net('10.5.0.0', 16)), drop], 'closed in,out'],
    ['another network', [eq(address('saddr'), net('10.6.0.0', 16)), drop], undefined],
    ['all but a network', [eq(address('daddr'), net('10.5.7.0', 24), '!='), drop], 'closed out'],
    ['an address', [eq(address('daddr'), '10.5.7.2'), drop], 'partly in'],
    ['a range', [eq(address('daddr'), { range: ['10.5.7.0', '10.5.7.255'] }), drop], 'closed in'],
    ['IPv6', [eq(address('saddr', 'ip6'), net('fc00:5::', 32)), drop], undefined],
    ['all but an IPv6 network', [eq(address('saddr', 'ip6'), net('fe80::', 64), '!='), drop], undefined],
    ['IPv4 packets', [eq(meta('nfproto'), 'ipv4'), drop], 'closed in,out'],
    ['an interface', [eq(meta('iifname'), 'docker*'), drop], 'closed out'],
    ['one of several interfaces', [eq(meta('oif'), { set: ['br9', 'eth0'] }), drop], 'closed out'],
    ['a port', [eq({ payload: { protocol: 'tcp', field: 'dport' } }, 25), drop], 'partly in,out'],
    ['icmpv6', [eq({ payload: { protocol: 'icmpv6', field: 'type' } }, 'echo-request'), drop], undefined],
    ['a state', [eq({ ct: { key: 'state' } }, ['new', 'untracked'], 'in'), drop], 'closed in,out'],
    ['another state', [eq({ ct: { key: 'state' } }, 'invalid', 'in'), drop], undefined],
    ['a mark', [eq({ '&': [meta('mark'), 0x10] }, 0x10), drop], undefined],
    ['no reverse route', [eq({ fib: { result: 'oif', flags: ['saddr', 'iif'] } }, false), drop], undefined],
    ['a local address', [eq({ fib: { result: 'type', flags: ['daddr'] } }, 'local'), drop], undefined],
    ['a limit', [{ limit: { rate: 5, per: 'second' } }, drop], 'partly in,out'],
    ['a set by name', [eq(address('saddr'), '@mine'), drop], 'closed in'],
    ['a set that is not there', [eq(address('saddr'), '@none'), drop], undefined],
    ['what nobody knows', [{ osf: { key: 'name' } }, drop], 'partly in,out'],
    ["iptables' own tests", [{ xt: { type: 'match', name: 'conntrack' } }, drop], 'partly in,out'],
    ['a comment of iptables', [{ xt: { type: 'match', name: 'comment' } }, drop], 'closed in,out'],
    ["iptables' REJECT", [{ xt: { type: 'target', name: 'REJECT' } }], 'closed in,out'],
    ['a queue', [{ queue: { num: 0 } }], undefined],
    ['a pair', [eq({ concat: [meta('iifname'), meta('oifname')] }, pairs), drop], 'closed in'],
    ['a verdict map', [{ vmap: { key: meta('iifname'), data: { set: byInterface } } }], 'closed in'],
  ])('%s: %j', (_, expr, expected) => {
    const elem = [{ elem: { val: net('10.5.0.0', 18) } }, net('10.5.0.0', 16)];
    const mine = { set: { family: 'inet', table: 't', name: 'mine', elem } };
    const withoutOwn = eq(address('saddr'), net('10.5.7.0', 24), '!=');
    const rule = expr.some((one) => JSON.stringify(one).includes('@mine')) ? [withoutOwn, ...expr] : expr;
    expect(ofNft([rule], {}, passage, [mine])).toBe(expected);
  });

  it("judges each family's packets by its own rules", () => {
    const rules = [[eq(address('saddr', 'ip6'), net('fc00:5::', 32)), drop]];
    expect([ofNft(rules), ofNft(rules, {}, of6)]).toEqual([undefined, 'closed in,out']);
    expect(ofNft([[drop]], { family: 'ip' }, of6)).toBeUndefined();
  });

  it('takes no container for an IPv4 address written as an IPv6 one', () => {
    expect(ofNft([[eq(address('daddr', 'ip6'), net('::ffff:0.0.0.0', 96)), drop]], {}, of6)).toBeUndefined();
  });

  it('an accept in one chain does not overrule a policy in another', () => {
    const place = { family: 'inet', table: 'other' };
    const other = { ...place, name: 'f', type: 'filter', hook: 'forward', prio: -100, policy: 'accept' };
    const more = [{ chain: other }, { rule: { ...place, chain: 'f', handle: 9, expr: [accept] } }];
    expect(ofNft([], { policy: 'drop' }, passage, more)).toBe('closed in,out');
  });

  it.each([
    ['input', undefined],
    ['output', undefined],
    ['prerouting', 'closed in,out'],
    ['postrouting', 'closed in,out'],
  ])('a chain at the hook %s: %s', (hook, expected) => {
    expect(ofNft([[drop]], { hook })).toBe(expected);
  });

  it.each([
    [{ dev: 'eth0' }, 'closed in'],
    [{ dev: ['docker0', 'br9'] }, 'closed out'],
    [{ dev: 'eth9' }, undefined],
    [{}, 'partly in,out'],
  ])('a chain at an interface: %j', (device, expected) => {
    expect(ofNft([[drop]], { family: 'netdev', hook: 'ingress', ...device })).toBe(expected);
  });
});
