import { describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimFiles } from '../../sim/files.ts';
import { SimLog } from '../../sim/log.ts';
import { prepareForwarding, reportBridgeFilter } from '../../src/daemon/forwarding.ts';

const IPV4 = '/proc/sys/net/ipv4/ip_forward';
const IPV6 = '/proc/sys/net/ipv6/conf/all/forwarding';
const BRIDGE4 = '/proc/sys/net/bridge/bridge-nf-call-iptables';
const BRIDGE6 = '/proc/sys/net/bridge/bridge-nf-call-ip6tables';

async function host(settings: Readonly<Record<string, string>>) {
  const files = new SimFiles();
  for (const [path, value] of Object.entries(settings)) await files.writeAtomic(path, `${value}\n`, 0o644);
  files.writes = 0;
  const log = new SimLog(new VirtualClock());
  return {
    files,
    log,
    lines: () => log.lines.map(({ fields, message }) => `${String(fields['event'])}: ${message}`),
  };
}

describe('prepareForwarding', () => {
  it.each([
    ['on: nothing to say', { [IPV4]: '1', [IPV6]: '1' }, false, [], '1'],
    [
      'off: said, with the command',
      { [IPV4]: '0', [IPV6]: '1' },
      false,
      [/^not-forwarding: .*sysctl -w net.ipv4.ip_forward=1$/],
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
      'off, to be set: set',
      { [IPV4]: '0', [IPV6]: '0' },
      true,
      [/^forwarding-set: .*ipv4/, /^forwarding-set: .*ipv6/],
      '1',
    ],
    ['on, to be set: not written', { [IPV4]: '1', [IPV6]: '1' }, true, [], '1'],
    ['unknown: nothing to say', {}, true, [], undefined],
  ] as const)('%s', async (_, settings, setIpForward, expected, after) => {
    const { files, log, lines } = await host(settings);
    await prepareForwarding({ files, log: log.of('host'), families: [4, 6], setIpForward });
    expect(lines()).toEqual(expected.map((pattern) => expect.stringMatching(pattern)));
    expect((await files.readText(IPV4))?.trim()).toBe(after);
    expect(files.writes).toBe(lines().filter((line) => line.startsWith('forwarding-set')).length);
  });

  it('leaves a family alone that is off', async () => {
    const { files, log, lines } = await host({ [IPV4]: '1', [IPV6]: '0' });
    await prepareForwarding({ files, log: log.of('host'), families: [4], setIpForward: true });
    expect(lines()).toEqual([]);
    expect(await files.readText(IPV6)).toBe('0\n');
  });

  it('says why it cannot be set', async () => {
    const { files, log, lines } = await host({ [IPV4]: '0' });
    files.writeError = 'EROFS';
    await prepareForwarding({ files, log: log.of('host'), families: [4], setIpForward: true });
    expect(lines()).toEqual([expect.stringMatching(/^not-forwarding: .*EROFS.*sysctl -w/)]);
  });
});

describe('reportBridgeFilter', () => {
  it.each([
    ['there', { [BRIDGE4]: '1', [BRIDGE6]: '1' }, []],
    ['there and off: the operator has decided', { [BRIDGE4]: '0', [BRIDGE6]: '0' }, []],
    [
      'missing',
      {},
      [/bridge-nf-call-iptables is missing.*modprobe br_netfilter/, /bridge-nf-call-ip6tables/],
    ],
  ] as const)('%s', async (_, settings, expected) => {
    const { files, log, lines } = await host(settings);
    await reportBridgeFilter({ files, log: log.of('host'), families: [4, 6] });
    expect(lines()).toEqual(expected.map((pattern) => expect.stringMatching(pattern)));
  });
});
