import { describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimFiles } from '../../sim/files.ts';
import { SimLog } from '../../sim/log.ts';
import { Forwarding, reportBridgeFilter } from '../../src/daemon/host-checks.ts';
import type { Family } from '../../src/ip/ip.ts';
import { Activity } from '../../src/runtime/activity.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';

const IPV4 = '/proc/sys/net/ipv4/ip_forward';
const IPV6 = '/proc/sys/net/ipv6/conf/all/forwarding';
const BRIDGE4 = '/proc/sys/net/bridge/bridge-nf-call-iptables';
const BRIDGE6 = '/proc/sys/net/bridge/bridge-nf-call-ip6tables';

async function host(settings: Readonly<Record<string, string>>) {
  const files = new SimFiles();
  for (const [path, value] of Object.entries(settings)) await files.writeAtomic(path, `${value}\n`, 0o644);
  files.writes = 0;
  const clock = new VirtualClock();
  const log = new SimLog(clock);
  const trouble = new TroubleLog(clock, log.of('host'));
  const activity = new Activity(clock);
  const parts = { files, clock, log: log.of('host'), trouble, activity, linkName: () => 'eth0.7' };
  return {
    ...parts,
    set: (path: string, value: string) => files.writeAtomic(path, `${value}\n`, 0o644),
    make: (setIpForward: boolean, families: readonly Family[] = [4, 6]) =>
      new Forwarding({ ...parts, families, setIpForward }),
    lines: () => log.lines.map(({ fields, message }) => `${String(fields['event'])}: ${message}`),
  };
}

const ETH0 = '/proc/sys/net/ipv4/conf/eth0.7/forwarding';
const DOCKER0 = '/proc/sys/net/ipv4/conf/docker0/forwarding';

describe('Forwarding', () => {
  it.each([
    ['on: nothing to say', { [IPV4]: '1', [IPV6]: '1', [ETH0]: '1', [DOCKER0]: '1' }, false, [], '1'],
    [
      'off: said, with the command',
      { [IPV4]: '0', [IPV6]: '1', [ETH0]: '0' },
      false,
      [
        /^not-forwarding: IPv4 forwarding is off \(net.ipv4.ip_forward = 0\).*Run: sysctl -w net.ipv4.ip_forward=1$/,
      ],
      '0',
    ],
    [
      'off in both',
      { [IPV4]: '0', [IPV6]: '0' },
      false,
      [/ipv4.ip_forward=1$/, /ipv6.conf.all.forwarding=1$/],
      '0',
    ],
    [
      'off on the links that packets arrive on: said, whatever is to be set',
      { [IPV4]: '1', [IPV6]: '1', [ETH0]: '0', [DOCKER0]: '0' },
      true,
      [/: sysctl -w net.ipv4.conf.eth0\/7.forwarding=1 && sysctl -w net.ipv4.conf.docker0.forwarding=1$/],
      '1',
    ],
    [
      'off, to be set: set',
      { [IPV4]: '0', [IPV6]: '0' },
      true,
      [/^forwarding-set: .*ipv4/, /^forwarding-set: .*ipv6/],
      '1',
    ],
    ['on, to be set: not written', { [IPV4]: '1', [IPV6]: '1' }, true, [], '1'],
    ['unknown: nothing to say', {}, true, [], undefined],
  ] as const)('%s', async (_, settings, setIpForward, expected, after) => {
    const { files, make, lines, trouble } = await host(settings);
    await make(setIpForward).check();
    expect(lines()).toEqual(expected.map((pattern) => expect.stringMatching(pattern)));
    expect((await files.readText(IPV4))?.trim()).toBe(after);
    const told = lines().filter((line) => !line.startsWith('forwarding-set'));
    expect(trouble.current).toHaveLength(told.length);
    expect(files.writes).toBe(lines().length - told.length);
  });

  it('leaves a family alone that is off', async () => {
    const { files, make, lines } = await host({ [IPV4]: '1', [IPV6]: '0' });
    await make(true, [4]).check();
    expect(lines()).toEqual([]);
    expect(await files.readText(IPV6)).toBe('0\n');
  });

  it('says why it cannot be set', async () => {
    const { files, make, lines } = await host({ [IPV4]: '0' });
    files.writeError = 'EROFS';
    await make(true).check();
    expect(lines()).toEqual([
      expect.stringMatching(
        /^not-forwarding: .*switch it on: its file system is read-only \(EROFS\)\. Run: sysctl -w/,
      ),
    ]);
  });

  it.each([
    ['is told while the daemon runs, until it is on again', false],
    ['is switched on again while the daemon runs', true],
  ])('%s', async (_, setIpForward) => {
    const { clock, set, make, trouble, activity, files } = await host({ [IPV4]: '1', [IPV6]: '1' });
    const controller = new AbortController();
    const run = make(setIpForward).run(controller.signal);
    const ended = expect(run).rejects.toThrow('stopped');
    await clock.advance(60_000);
    expect(trouble.current).toEqual([]);
    await set(IPV4, '0');
    await clock.advance(10_000);
    expect(trouble.current).toHaveLength(setIpForward ? 0 : 1);
    expect(activity.counts('forwarding-set').get('ipv4')).toBe(setIpForward ? 1 : undefined);
    expect(files.peek(IPV4)).toBe(setIpForward ? '1\n' : '0\n');
    await set(IPV4, '1');
    await clock.advance(10_000);
    expect(trouble.current).toEqual([]);
    controller.abort(new Error('stopped'));
    await ended;
  });
});

describe('reportBridgeFilter', () => {
  it.each([
    ['there', { [BRIDGE4]: '1', [BRIDGE6]: '1' }, []],
    ['there and off: the operator has decided', { [BRIDGE4]: '0', [BRIDGE6]: '0' }, []],
    [
      'missing',
      {},
      [/bridge-nf-call-iptables does not exist.*modprobe br_netfilter/, /bridge-nf-call-ip6tables/],
    ],
  ] as const)('%s', async (_, settings, expected) => {
    const { files, log, lines } = await host(settings);
    await reportBridgeFilter({ files, log, families: [4, 6] });
    expect(lines()).toEqual(expected.map((pattern) => expect.stringMatching(pattern)));
  });
});
