import { describe, expect, it } from 'vitest';
import { routeProtocol as protocol } from '../../sim/host.ts';
import { SimKernel } from '../../sim/kernel.ts';
import { subnet } from '../../sim/leases.ts';
import { checkPackets } from '../../src/cli/doctor/check-packets.ts';
import { localAddresses } from '../../src/daemon/host/processes.ts';
import { CommandError } from '../../src/runtime/effects.ts';

const own = subnet('172.20.100.0/24');
const container = { address: '172.20.100.2', namespace: '/proc/77/ns/net' };

/** A host with routes of ours to 172.20.1.0/24 and on, and one of another program. */
function kernelWith(peers: number): SimKernel {
  const kernel = new SimKernel();
  const linkIndex = kernel.createLink('eth0');
  kernel.addAddress('eth0', '10.211.55.100/24');
  kernel.addRoute({ dst: '172.20.0.0/24', gateway: '10.211.55.9', linkIndex, protocol: 4 });
  for (let i = 1; i <= peers; i++)
    kernel.addRoute({ dst: `172.20.${i}.0/24`, gateway: `10.211.55.${i}`, linkIndex, protocol });
  return kernel;
}

/** `lost` is asked for each packet: the words of the command, and how often they were used before. */
async function check(peers: number, lost: (words: string, before: number) => boolean, there = container) {
  const sent: string[] = [];
  const kernel = kernelWith(peers).open();
  const findings = await checkPackets(
    {
      kernel,
      routeProtocol: protocol,
      findContainer: async () => there,
      commands: {
        run: async (program, argv) => {
          const words = [program, ...argv].join(' ');
          const before = sent.filter((one) => one === words).length;
          sent.push(words);
          return { exitCode: lost(words, before) ? 1 : 0, stdout: '', stderr: '' };
        },
      },
    },
    own,
    new AbortController().signal,
  );
  kernel.close();
  return { findings, sent };
}

const inside = 'nsenter --net=/proc/77/ns/net ping -q -c 1 -W 1';

describe('packets of a container', () => {
  it('go to the first, the middle and the last peer alone, however many there are', async () => {
    const { findings, sent } = await check(9, () => false);
    const asked = sent.filter((words) => words.startsWith('nsenter'));
    expect(asked).toEqual(['172.20.1.1', '172.20.5.1', '172.20.9.1'].map((to) => `${inside} ${to}`));
    expect(findings).toEqual([
      {
        level: 'ok',
        text: 'IPv4: 172.20.100.2, a container of this host, gets answers from 172.20.1.1, 172.20.5.1, 172.20.9.1',
      },
    ]);
  });

  it('are sent again when the first ones are lost, as while neighbours look for each other', async () => {
    const { findings } = await check(1, (_, before) => before < 2);
    expect(findings.map(({ level }) => level)).toEqual(['ok']);
  });

  it('that get no answer are a problem where the host itself gets one, and a note where it gets none', async () => {
    const { findings } = await check(
      3,
      (words) => words.endsWith(' 172.20.3.1') || words === `${inside} 172.20.2.1`,
    );
    expect(findings.map(({ level, text }) => `${level} ${text}`)).toEqual([
      expect.stringMatching(/^ok .* gets answers from 172\.20\.1\.1$/),
      expect.stringMatching(/^problem .* gets no answer from 172\.20\.2\.1, but this host itself does$/),
      expect.stringMatching(/^note 1 peer answered neither .*: 172\.20\.3\.1$/),
    ]);
    expect(findings.map(({ remedy = '' }) => /10\.211\.55\.\d+/.exec(remedy)?.[0])).toEqual([
      undefined,
      '10.211.55.2',
      '10.211.55.3',
    ]);
  });

  it('are not sent without a peer', async () => {
    expect(await check(0, () => true)).toEqual({ findings: [], sent: [] });
  });

  it('that cannot be sent are a note', async () => {
    const missing = () => {
      throw new CommandError('COMMAND_MISSING', 'ping is not installed');
    };
    expect((await check(2, missing)).findings).toEqual([
      { level: 'note', text: 'no packet was sent to a peer: ping is not installed' },
    ]);
  });
});

describe('the addresses of another network namespace', () => {
  it('are read from fib_trie, where each stands twice', () => {
    const text = `Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.5.7.0
        /24 link UNICAST
     |-- 10.5.7.2
        /32 host LOCAL
     |-- 10.5.7.255
        /32 link BROADCAST
`;
    expect(localAddresses(4, `Main:\n${text}`)).toEqual(['10.5.7.2']);
  });

  it('are read from if_inet6', () => {
    const text = `fe80000000000000a8bb0dfffe1c2d3e 02 40 20 80     eth0
fc000005000000070000000000000002 02 40 00 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
`;
    expect(localAddresses(6, text)).toEqual(['fe80::a8bb:dff:fe1c:2d3e', 'fc00:5:0:7::2', '::1']);
  });
});
