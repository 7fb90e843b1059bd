import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Blockage, readBlockages } from '../../src/firewall/blockages.ts';
import { CommandError } from '../../src/runtime/effects.ts';
import { CheckedFirewall } from '../contract/firewall-world.ts';
import { quoted } from '../testbed/commands.ts';
import { addresses, FirewallNetwork, networksOf } from './firewall-network.ts';

type Mode = 'iptables' | 'nftables';

interface Row {
  readonly what: string;
  /** What the operator of host a does, in a shell, before the daemon's check. */
  readonly script: string;
  readonly mode?: Mode;
  /** What the analysis says of host a; for `closed` also the directions that no packet passes in. */
  readonly effect?: Blockage['effect'];
  /** Where nft tells enough it says `closed` instead. */
  readonly orClosed?: true;
  /** Whether a connection to the other host's container gets through, and one from there. */
  readonly passes: { readonly out: boolean; readonly in: boolean };
  readonly text?: RegExp;
}

const all = { out: true, in: true };
const none = { out: false, in: false };
const forwardChain = (policy: string, rules = '', priority = 'filter') => `nft -f - <<'END'
table inet filter {
  set ours { type ipv4_addr; flags interval; elements = { 10.5.0.0/16, 192.168.0.0/24 }; }
  chain strict { ip saddr 10.0.0.0/8 drop; ip6 saddr fc00::/7 drop; }
  chain forward { type filter hook forward priority ${priority}; policy ${policy}; ${rules}; }
}
END`;

const rows: readonly Row[] = [
  { what: 'nothing else', script: 'true', passes: all },
  {
    what: "a policy of drop in an operator's table",
    script: forwardChain('drop'),
    effect: 'closed',
    passes: none,
    text: /table inet filter, chain forward, policy drop/,
  },
  {
    what: 'the same, with the daemon in nftables mode',
    script: forwardChain('drop', 'ct state vmap { established : accept, invalid : drop }', '10'),
    mode: 'nftables',
    effect: 'closed',
    passes: none,
  },
  {
    what: 'a policy of drop where the network is let through',
    script: forwardChain('drop', 'ip saddr @ours accept; ip6 saddr fc00:5::/32 accept'),
    passes: all,
  },
  {
    what: 'a chain that ends in a reject',
    script: forwardChain('accept', 'iifname "lo" accept; goto strict; accept'),
    effect: 'closed',
    passes: none,
    text: /chain strict, rule "ip6? saddr \S+ drop"/,
  },
  {
    what: "this host's containers alone",
    script: forwardChain(
      'accept',
      'ct state new ip saddr 10.5.7.0/24 drop; ct state new ip6 saddr fc00:5:0:7::/64 drop',
    ),
    effect: 'closed',
    passes: { out: false, in: true },
    text: /from this host's containers to other hosts'/,
  },
  {
    what: 'a policy of DROP in the other kind of iptables',
    script: 'iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP',
    effect: 'closed',
    passes: none,
    text: /ip6?tables-legacy, table filter, chain FORWARD, policy drop/,
  },
  {
    what: 'a REJECT of the network before our jump',
    script:
      'iptables-nft -I FORWARD -s 10.5.0.0/16 -j REJECT; ip6tables-nft -I FORWARD -s fc00:5::/32 -j REJECT',
    effect: 'closed',
    passes: none,
    text: /Remove the rule \(ip6?tables-nft -D FORWARD -s .*--iptables-forward-position=first/,
  },
  {
    what: "a policy of DROP in iptables' FORWARD",
    script: 'iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP',
    passes: all,
  },
  {
    what: "a policy of DROP in iptables' FORWARD, with the daemon in nftables mode",
    script: 'iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP',
    mode: 'nftables',
    effect: 'closed',
    passes: none,
    text: /DOCKER-USER.*cannot overrule/,
  },
  {
    what: 'a drop in mangle, through a chain',
    script: [4, 6]
      .map((family) => (family === 4 ? 'iptables-nft' : 'ip6tables-nft'))
      .map(
        (program) =>
          `${program} -t mangle -N M; ${program} -t mangle -A M ! -i docker0 -j DROP; ${program} -t mangle -A FORWARD -m conntrack --ctstate NEW -o docker0 -g M`,
      )
      .join('; '),
    effect: 'closed',
    passes: { out: true, in: false },
    text: /table mangle, chain M/,
  },
  {
    what: 'a drop in raw, by the old tables',
    script:
      'iptables-legacy -t raw -A PREROUTING -i docker0 -j DROP; ip6tables-legacy -t raw -A PREROUTING -i docker0 -j DROP',
    effect: 'closed',
    // IPv4's answers come by the same way.
    passes: none,
    text: /legacy, table raw, chain PREROUTING/,
  },
  {
    what: 'a drop before everything else, at the interface',
    script: `nft -f - <<'END'
table netdev early {
  chain in { type filter hook ingress device "eth0" priority 0; ip saddr 10.5.0.0/16 drop; ip6 saddr fc00:5::/32 drop; }
}
END`,
    // nft 1.0.6 does not say of which interface the chain is.
    effect: 'partly',
    orClosed: true,
    passes: none,
    text: /table netdev early, chain in/,
  },
];

let network: FirewallNetwork;

beforeAll(async () => {
  network = await FirewallNetwork.make();
});
afterAll(() => network?.close());

beforeEach(async () => {
  const flush = ['iptables-legacy', 'ip6tables-legacy'].flatMap((program) => [
    `${program} -P FORWARD ACCEPT`,
    ...['filter', 'raw'].flatMap((table) => [`${program} -t ${table} -F`, `${program} -t ${table} -X`]),
  ]);
  await inA(['nft flush ruleset', ...flush].join('; '));
});

const inA = (script: string) => network.host('a').exec('sh', '-ec', script);
const passages = ([4, 6] as const).map((family) => ({
  ...networksOf('a')[family === 4 ? 'ipv4' : 'ipv6'],
  uplink: 'eth0',
  bridge: 'docker0',
}));

/** What gets through; what is to get through may take its time. */
async function packets(family: 4 | 6, expected: Row['passes']): Promise<Row['passes']> {
  const reaches = async (from: 'ca' | 'cb', to: 'ca' | 'cb', isExpected: boolean) =>
    (await network.seenFrom(from, to, family, isExpected ? 10 : 1)) === addresses[family][from];
  return { out: await reaches('ca', 'cb', expected.out), in: await reaches('cb', 'ca', expected.in) };
}

describe.each(rows)('$what', ({ script, mode = 'iptables', effect, orClosed, passes, text }) => {
  test('is judged as packets fare, and passes once the remedy was followed', async () => {
    await inA(script);
    const tools = network.tools('a', 'nft');
    await new CheckedFirewall(tools, { mode, networks: networksOf('a'), masquerade: false }).check();
    const look = () => readBlockages({ ...tools, passages, mode }, new AbortController().signal);
    const found = await look();
    for (const family of [4, 6] as const)
      expect(await packets(family, passes), `IPv${family}`).toEqual(passes);
    const seen = orClosed === true && found[0]?.effect === 'closed' ? 'closed' : effect;
    expect(found.map((one) => one.effect)).toEqual(seen === undefined ? [] : [seen, seen]);
    if (text !== undefined) for (const one of found) expect(`${one.text}. ${one.remedy}`).toMatch(text);
    const sentence = /^(Run: |Remove |Start |If this is not intended, (run: |remove |start ))/;
    for (const { remedy } of found) expect(remedy).toMatch(sentence);
    for (const { remedy } of found) await inA(commandOf(remedy));
    if (effect !== undefined) expect(await look()).toEqual([]);
    for (const family of [4, 6] as const) expect(await packets(family, all), `IPv${family}`).toEqual(all);
  });
});

/**
 * What firewalld 1.3.3 (Debian 12) had in the kernel: with its default zone, public, and after both networks were made
 * sources of its zone trusted by the commands of the remedy.
 */
test('firewalld is named, and its zone trusted lets packets pass', async () => {
  const load = (name: string) =>
    inA(`nft -f ${quoted(join(import.meta.dirname, '../testbed/firewalld', `${name}.nft`))}`);
  await load('default-zone');
  const tools = network.tools('a', 'nft');
  await new CheckedFirewall(tools, { networks: networksOf('a'), masquerade: false }).check();
  const look = () => readBlockages({ ...tools, passages, mode: 'iptables' }, new AbortController().signal);
  const found = await look();
  expect(await packets(4, none)).toEqual(none);
  expect(found).toMatchObject(
    passages.map((passage) => ({
      effect: 'closed',
      text: expect.stringContaining('table inet firewalld, chain filter_FWD_public, rule "reject with'),
      remedy: `Run: firewall-cmd --permanent --zone=trusted --add-source=${passage.network.text} && firewall-cmd --reload`,
    })),
  );
  await inA('nft delete table inet firewalld');
  await load('network-trusted');
  for (const family of [4, 6] as const) expect(await packets(family, all)).toEqual(all);
  expect(await look()).toEqual([]);
});

/** What a remedy tells to type. */
function commandOf(remedy: string): string {
  const [, removal] = /^Remove the rule \((.*)\), or/.exec(remedy) ?? [];
  return (
    removal ??
    remedy.replace(/^(If this is not intended, run|Run): /, '').replace(/(accept|ACCEPT)(;| \(|,).*$/, '$1')
  );
}

test('costs five short processes for both families, and three for one', async () => {
  const ran: string[] = [];
  const { commands } = network.tools('a', 'nft');
  const counted: typeof commands = {
    run: (program, args, options, signal) => {
      ran.push(program);
      return commands.run(program, args, options, signal);
    },
  };
  const { signal } = new AbortController();
  await readBlockages({ commands: counted, passages, mode: 'iptables' }, signal);
  expect(ran).toHaveLength(5);
  await readBlockages({ commands: counted, passages: passages.slice(0, 1), mode: 'iptables' }, signal);
  expect(ran).toHaveLength(8);
});

test('says the same whichever tool shows the rules of iptables', async () => {
  await inA('iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -m comment --comment "x y" -j REJECT');
  const { commands } = network.tools('a', 'nft');
  const withoutIptables: typeof commands = {
    run: async (program, args, options, signal) => {
      if (program !== 'nft') throw new CommandError('COMMAND_MISSING', `${program} is not installed`);
      return await commands.run(program, args, options, signal);
    },
  };
  const judged = async (of: typeof commands) =>
    (
      await readBlockages(
        { commands: of, passages: passages.slice(0, 1), mode: 'iptables' },
        new AbortController().signal,
      )
    ).map(({ effect, text }) => [
      effect,
      text.split(', rule')[0]?.replace('iptables-nft, table', 'table ip'),
    ]);
  expect(await judged(commands)).toEqual(await judged(withoutIptables));
});
