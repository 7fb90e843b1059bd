import { describe, expect, it } from 'vitest';
import { SimFiles } from '../../sim/files.ts';
import { parseOptions } from '../../src/daemon/options/options.ts';
import {
  parseEnvironmentFile,
  readServiceSettings,
  splitWords,
} from '../../src/daemon/options/service-settings.ts';

const SYSCONFIG = '/etc/sysconfig/flanneld';
const DEFAULT = '/etc/default/flanneld';

async function service(contents: Readonly<Record<string, string>>) {
  const files = new SimFiles();
  for (const [path, text] of Object.entries(contents)) await files.writeAtomic(path, text, 0o644);
  return () => readServiceSettings(files);
}

async function parse(line: string, contents: Readonly<Record<string, string>>, env = {}) {
  const parsed = await parseOptions({ argv: line.split(' '), env, service: await service(contents) });
  if (parsed.command !== 'doctor' && parsed.command !== 'lease-release') throw new Error(parsed.command);
  return parsed;
}

const usual = {
  [SYSCONFIG]:
    'FLANNEL_ETCD_ENDPOINTS="http://10.0.0.1:2379"\nFLANNEL_ETCD_PREFIX="/atomic.io/network"\nFLANNEL_OPTIONS="--iface=eth1 --ip-masq"\n',
};

describe('doctor and lease release without flags', () => {
  it('look where the service looks, and say so in one line', async () => {
    const { options, warnings } = await parse('doctor', usual);
    expect(options).toMatchObject({
      etcdPrefix: '/atomic.io/network',
      etcdEndpoints: [{ url: 'http://10.0.0.1:2379' }],
      ifaces: ['eth1'],
      ipMasq: true,
    });
    expect(warnings).toEqual([`settings of the service: ${SYSCONFIG}`]);
  });

  it('lease release takes what it knows of FLANNEL_OPTIONS, and the SUBNET as ever', async () => {
    const parsed = await parse('lease release 172.20.9.0/24', usual);
    expect(parsed.options).toMatchObject({
      etcdPrefix: '/atomic.io/network',
      lease: { subnet: { text: '172.20.9.0/24' } },
    });
    expect((await parse('lease release', usual)).options).toMatchObject({
      lease: { host: { ifaces: ['eth1'] } },
    });
  });

  it('the later file wins, as it does for the service', async () => {
    const { options, warnings } = await parse('doctor', {
      ...usual,
      [DEFAULT]: 'FLANNEL_ETCD_PREFIX=/other\nFLANNELD_IFACE=eth2\nFLANNEL_OPTIONS=\n',
    });
    expect(options).toMatchObject({ etcdPrefix: '/other', ifaces: ['eth2'], ipMasq: false });
    expect(warnings).toEqual([`settings of the service: ${SYSCONFIG} and, winning, ${DEFAULT}`]);
  });

  it('a flag replaces that of the service, and a variable of the caller its variable', async () => {
    const { options } = await parse('doctor --iface=eth7', usual, { FLANNELD_IP_MASQ: 'false' });
    expect(options).toMatchObject({ ifaces: ['eth7'], ipMasq: true, etcdPrefix: '/atomic.io/network' });
  });

  it.each([
    ['doctor --etcd-prefix=/p', {}],
    ['doctor', { FLANNEL_ETCD_ENDPOINTS: 'http://10.0.0.9:2379' }],
  ])('%s with %j: whoever names a place in etcd gets no settings of the service', async (line, env) => {
    const { options, warnings } = await parse(line, usual, env);
    expect(options).not.toMatchObject({ etcdPrefix: '/atomic.io/network' });
    expect(options).toMatchObject(line === 'doctor' ? { ifaces: [] } : { etcdPrefix: '/p', ifaces: [] });
    expect(warnings).toEqual([]);
  });

  it('a wrong flag of the service is told as its', async () => {
    const wrong = { [SYSCONFIG]: 'FLANNEL_OPTIONS="--no-such"\n' };
    await expect(parse('doctor', wrong)).rejects.toThrow(
      /^FLANNEL_OPTIONS of the service: unknown flag "--no-such"/,
    );
  });

  it('says where it looks when there is no file either', async () => {
    expect((await parse('doctor', {})).warnings).toEqual([
      expect.stringMatching(/^looking at http:\/\/127\.0\.0\.1:2379 under \/coreos\.com\/network: neither/),
    ]);
  });
});

describe("systemd's rules", () => {
  // Held against systemd itself by the end-to-end tests.
  it('an environment file', () => {
    const text = [
      '# A=comment',
      '; A=comment',
      'A=plain  ',
      "C='it is $HOME \\ '",
      'D="a \\"b\\" \\$c \\x"',
      'E=one\\ two',
      'no assignment',
      'G="two',
      'lines"',
      'H=',
      "I=-a'b c'-d",
      ' J = \'a\' "b" # c',
    ].join('\n');
    expect(Object.fromEntries(parseEnvironmentFile(text))).toMatchObject({
      A: 'plain',
      C: 'it is $HOME \\ ',
      D: 'a "b" $c \\x',
      E: 'one two',
      G: 'two\nlines',
      H: '',
      I: "-a'b c'-d",
      J: 'ab# c',
    });
  });

  it.each([
    ['', []],
    ['  --iface=eth0\t--ip-masq ', ['--iface=eth0', '--ip-masq']],
    ['--iface-regex="a b" \'-v 1\' x\\ y', ['--iface-regex=a b', '-v 1', 'x y']],
  ])('%j in a command', (text, words) => {
    expect(splitWords(text)).toEqual(words);
  });
});
