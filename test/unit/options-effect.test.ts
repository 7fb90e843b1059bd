import { afterEach, expect, it } from 'vitest';
import { prefix, SimCluster, type SimHost } from '../../sim/cluster.ts';
import type { Call } from '../../sim/firewall.ts';
import { flagTable } from '../../src/daemon/options/flags.ts';
import { run } from './options-run.ts';

// What each flag does to a host, from the command line on: a flag that is read and then forgotten shows here.

let cluster: SimCluster | undefined;

afterEach(async () => {
  await cluster?.close();
  cluster = undefined;
});

const Backend = { Type: 'host-gw' };
const ipv4 = { Network: '172.20.0.0/16', Backend };
const dual = { ...ipv4, EnableIPv6: true, IPv6Network: 'fc00:20::/48' };
const FORWARDING = '/proc/sys/net/ipv4/ip_forward';

interface Started {
  readonly cluster: SimCluster;
  readonly host: SimHost;
}

/** A host with eth0 (two addresses of each family, the default routes) and eth1, ready with these flags. */
async function start(flags: readonly string[]): Promise<Started> {
  await cluster?.close();
  cluster = new SimCluster({ seed: 1, hosts: 1, ipv6: true, config: JSON.stringify(ipv4) });
  cluster.etcd.put('/other/config', JSON.stringify({ ...ipv4, Network: '172.21.0.0/16' }));
  cluster.etcd.put('/nft/config', JSON.stringify({ ...ipv4, EnableNFTables: true }));
  cluster.etcd.put('/dual/config', JSON.stringify(dual));
  const [host] = cluster.hosts;
  if (host === undefined) throw new Error('no host');
  host.kernel.addAddress('eth0', '10.211.55.99/16');
  host.kernel.addAddress('eth0', 'fd00:55::99/64');
  host.kernel.createLink('eth1');
  host.kernel.addAddress('eth1', '192.168.7.1/24');
  await host.files.writeAtomic(FORWARDING, '0\n', 0o644);
  await change(host, 'filter', '-A FORWARD -s 192.0.2.0/24 -j ACCEPT', '-A FORWARD -j REJECT');
  host.firewall.calls.length = 0;
  const { options } = await run([`--etcd-prefix=${prefix}`, ...flags]);
  host.startWith(options);
  await cluster.clock.until('ready', () => host.notifier.isReady, 60_000);
  return { cluster, host };
}

async function change(host: SimHost, table: string, ...lines: readonly string[]): Promise<void> {
  const stdin = `*${table}\n${lines.join('\n')}\nCOMMIT\n`;
  host.firewall.answer({ program: 'iptables-restore', args: ['--noflush'], stdin });
}

/** The rules of a chain, without its name. */
function rules({ host }: Started, table: string, chain: string): readonly string[] {
  const { stdout } = host.firewall.answer({ program: 'iptables-save', args: ['-t', table], stdin: '' });
  const lines = stdout.split('\n').filter((line) => line.startsWith(`-A ${chain} `));
  return lines.map((line) => line.slice(`-A ${chain} `.length));
}

/** What the one lease says, wherever it is. */
function lease({ cluster: { etcd } }: Started) {
  const [kv] = etcd.list('/', '0').filter(({ key }) => key.includes('/subnets/'));
  const value: { PublicIP: string; PublicIPv6: string | null } = JSON.parse(kv?.value ?? '{}');
  return { key: kv?.key ?? '', ...value };
}

const publicIP = (started: Started) => lease(started).PublicIP;
const file = ({ host }: Started, path: string) => host.files.readText(path);
const isJump = (rule: string) => rule.includes('FLANNEL-FWD');

/** How often something happened in ten minutes. */
async function inTenMinutes({ cluster: { clock } }: Started, count: () => number): Promise<number> {
  const before = count();
  await clock.advance(600_000);
  return count() - before;
}

type Effect = (started: Started) => unknown;

/** What is looked at, what it is without the flag, and with it. */
const EFFECTS: readonly (readonly [flags: string, look: Effect, without: unknown, withIt: unknown])[] = [
  ['--etcd-prefix=/other', (at) => lease(at).key.split('/subnets/')[0], prefix, '/other'],
  ['--iface=eth1', publicIP, '10.211.55.20', '192.168.7.1'],
  ['--iface-regex=^eth1$', publicIP, '10.211.55.20', '192.168.7.1'],
  ['--iface-can-reach=192.168.7.9', publicIP, '10.211.55.20', '192.168.7.1'],
  ['--public-ip=10.211.55.99', publicIP, '10.211.55.20', '10.211.55.99'],
  [
    // Beside it, IPv6 is turned on; the newest address would be the first.
    '--public-ipv6=fd00:55::20 --etcd-prefix=/dual',
    (at) => lease(at).PublicIPv6,
    null,
    'fd00:55::20',
  ],
  [
    '--subnet-lease-ttl=300',
    ({ cluster: { clock, etcd }, host }) =>
      host.stop().then(() => clock.advance(301_000).then(() => etcd.leaseIds.length)),
    1,
    0,
  ],
  [
    '--subnet-lease-renew-margin=1439',
    ({ cluster: { log } }) => log.lines.filter(({ fields }) => fields['event'] === 'renew-margin-cut').length,
    0,
    1,
  ],
  ['--subnet-file=/run/x/s.env', (at) => file(at, '/run/x/s.env'), undefined, /^FLANNEL_NETWORK=/],
  ['--docker-opts-file=/run/x/d', (at) => file(at, '/run/x/d'), undefined, /^DOCKER_OPTS=/],
  ['--docker-opts-file=', (at) => file(at, '/run/docker_opts.env'), /^DOCKER_OPTS=/, undefined],
  ['--docker-opts-key=KEY', (at) => file(at, '/run/docker_opts.env'), /^DOCKER_OPTS="/, /^KEY="/],
  [
    '--ip-blackhole-route',
    ({ host }) => host.kernel.routes(4).filter(({ type }) => type === 'blackhole').length,
    0,
    1,
  ],
  [
    '--ip-blackhole-route --route-protocol=200',
    ({ host }) => host.kernel.routes(4).filter(({ protocol }) => protocol === 200).length,
    0,
    1,
  ],
  ['--set-ip-forward', (at) => file(at, FORWARDING), '0\n', '1\n'],
  ['--ip-masq', (at) => rules(at, 'nat', 'FLANNEL-POSTRTG').length, 0, 6],
  ['--ip-masq', (at) => file(at, '/run/flannel/subnet.env'), /IPMASQ=false/, /IPMASQ=true/],
  ['--ip-masq', (at) => file(at, '/run/docker_opts.env'), /--ip-masq=true/, /--ip-masq=false/],
  [
    '--ip-masq --ip-masq-fully-random-disable',
    (at) => rules(at, 'nat', 'FLANNEL-POSTRTG').filter((rule) => rule.endsWith('MASQUERADE')).length,
    0,
    2,
  ],
  [
    '--ip-masq --ip-masq-fully-random-disable=false',
    (at) => rules(at, 'nat', 'FLANNEL-POSTRTG').filter((rule) => rule.endsWith('--random-fully')).length,
    0,
    2,
  ],
  ['--iptables-forward-rules=false', (at) => rules(at, 'filter', 'FORWARD').some(isJump), true, false],
  ['--iptables-forward-position=first', (at) => rules(at, 'filter', 'FORWARD').findIndex(isJump), 1, 0],
  ['--iptables-forward-position=last', (at) => rules(at, 'filter', 'FORWARD').findIndex(isJump), 1, 2],
];

it.each(EFFECTS)('%s', async (flags, look, without, withIt) => {
  const rows = [
    [await look(await start([])), without],
    [await look(await start(flags.split(' '))), withIt],
  ];
  for (const [seen, expected] of rows) {
    if (expected instanceof RegExp) expect(seen).toMatch(expected);
    else expect(seen).toEqual(expected);
  }
});

it.each([
  [[], 5],
  [['--iptables-resync=60'], 60],
])('--iptables-resync: with %j the rules are read every %i s, within a tenth', async (flags, seconds) => {
  const at = await start(flags);
  // Without a table it is a look at everything, which comes once a minute.
  const isCheck = ({ program, args }: Call) => program === 'iptables-save' && args.length > 0;
  const checks = await inTenMinutes(at, () => at.host.firewall.calls.filter(isCheck).length);
  expect(checks).toBeGreaterThan(600 / (seconds * 1.1) - 2);
  expect(checks).toBeLessThan(600 / (seconds * 0.9) + 2);
});

it('EnableNFTables in the network configuration puts the rules into nftables, and none into iptables', async () => {
  const flags = ['--etcd-prefix=/nft', '--ip-masq'];
  const [iptables, nftables] = [await start(['--ip-masq']), await start(flags)];
  const isNft = ({ host }: Started) =>
    host.firewall.calls.some(({ program, stdin }) => program === 'nft' && stdin.includes('ip flannel-ipv4'));
  const inIptables = (at: Started) => rules(at, 'filter', 'FORWARD').some(isJump);
  expect([isNft(iptables), inIptables(iptables)]).toEqual([false, true]);
  expect([isNft(nftables), inIptables(nftables)]).toEqual([true, false]);
});

it('every flag has a row here, but for those of etcd and of the process itself', () => {
  const elsewhere =
    /^(etcd-(endpoints|\w+file|username|password)|etcd-password-file|healthz-\w+|status-socket|v|log-\w+|help|version)$/;
  const seen = [...EFFECTS.map(([flags]) => flags), '--iptables-resync'].join(' ');
  const missing = flagTable.filter(({ name }) => !new RegExp(`--${name}(=| |$)`).test(seen));
  expect(missing.map(({ name }) => name).filter((name) => !elsewhere.test(name))).toEqual([]);
});
