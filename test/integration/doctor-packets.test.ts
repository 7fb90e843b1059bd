import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { quoted, run } from '../testbed/commands.ts';
import { PROGRAM } from '../testbed/daemon.ts';
import { tempDir } from '../testbed/run.ts';
import { addresses, FirewallNetwork } from './firewall-network.ts';

// What no analysis of rules can show: whether a container's packet comes back.

const SUBNET_ENV = `FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.7.1/24
FLANNEL_IPV6_NETWORK=fc00:5::/32
FLANNEL_IPV6_SUBNET=fc00:5:0:7::1/64
FLANNEL_MTU=1500
FLANNEL_IPMASQ=false
`;
const peers = { 4: ['10.5.8.0/24', '10.5.8.1'], 6: ['fc00:5:0:8::/64', 'fc00:5:0:8::1'] } as const;
const both = [4, 6] as const;

const dir = tempDir('doctor-packets');
const subnetFile = join(dir, 'subnet.env');
let network: FirewallNetwork;

beforeAll(async () => {
  writeFileSync(subnetFile, SUBNET_ENV);
  network = await FirewallNetwork.make();
  for (const family of both)
    await network.host('a').ip(`route replace ${peers[family][0]} via ${addresses[family].b} proto 102`);
});

afterAll(async () => {
  await network?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** Adds the rule that drops what containers of host a send. */
const drop = (chain: string) =>
  `nft add rule inet strict ${chain} ip saddr 10.5.7.2 drop; nft add rule inet strict ${chain} ip6 saddr fc00:5:0:7::2 drop`;

/** Runs doctor on host a, without etcd, beside a process in its container `ca` and no others that it could see. */
async function doctor(inContainer = 'sleep 60', before = ':'): Promise<string> {
  const netOf = (place: 'a' | 'ca') => `--net=/run/netns/${network.host(place).namespace}`;
  const options = ['--etcd-endpoints=http://127.0.0.1:1', '--iface=eth0', '--status-socket='];
  const argv = [PROGRAM, 'doctor', ...options, `--subnet-file=${subnetFile}`];
  const script = `${before}; nsenter ${quoted(netOf('ca'))} ${inContainer} & ${quoted(...argv)} 2>&1 || :`;
  const alone = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc', '--'];
  return await run('nsenter', [netOf('a'), '--', ...alone, 'sh', '-c', script]);
}

test('a container that runs here is told to get answers from the peers', async () => {
  const text = await doctor();
  for (const family of both)
    expect(text).toContain(
      `ok       IPv${family}: ${addresses[family].ca}, a container of this host, gets answers from ${peers[family][1]}\n`,
    );
});

test('no packet is sent where no container runs', async () => {
  expect(await doctor('true')).not.toContain('a container of this host');
});

test.each([
  [
    'this host, behind another hook of the packet filter than FORWARD',
    'a' as const,
    `nft add table inet strict; nft add chain inet strict out "{ type filter hook postrouting priority 0; }"; ${drop('out')}`,
  ],
  [
    'the peer',
    'b' as const,
    `nft add table inet strict; nft add chain inet strict in "{ type filter hook prerouting priority -300; }"; ${drop('in')}`,
  ],
])('packets that are lost by %s are a problem', async (_, place, script) => {
  await network.host(place).exec('sh', '-ec', script);
  const text = await doctor();
  for (const family of both) {
    const [, address] = peers[family];
    expect(text).toContain(
      `PROBLEM  ${addresses[family].ca}, a container of this host, gets no answer from ${address}, but this host itself does\n` +
        `         → If no line above says what drops packets here, run doctor on ${addresses[family].b}: `,
    );
  }
  await network.host(place).exec('nft', 'delete', 'table', 'inet', 'strict');
  expect(await doctor()).not.toContain('gets no answer');
});

test('a peer that answers nobody is named, and is no problem of this host', async () => {
  const rules = 'icmp type echo-request drop; nft add rule inet strict in icmpv6 type echo-request drop';
  await network
    .host('b')
    .exec(
      'sh',
      '-ec',
      `nft add table inet strict; nft add chain inet strict in "{ type filter hook input priority 0; }"; nft add rule inet strict in ${rules}`,
    );
  const text = await doctor();
  for (const family of both)
    expect(text).toMatch(
      new RegExp(
        `note +1 peer answered neither a container of this host nor the host itself: ${peers[family][1]}\\n.*run doctor on ${addresses[family].b}: `,
        'i',
      ),
    );
  expect(text).not.toContain('gets no answer');
  await network.host('b').exec('nft', 'delete', 'table', 'inet', 'strict');
});

test('without ping it says so', async () => {
  const ping = (await network.host('a').exec('sh', '-c', 'command -v ping')).trim();
  const text = await doctor('sleep 60', `mount --bind /dev/null ${ping}`);
  expect(text).toMatch(/note +no packet was sent to a peer: .*ping/);
});
