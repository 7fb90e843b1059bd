import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { quoted } from '../testbed/commands.ts';
import { onHost, runFolder } from '../testbed/host.ts';
import { makeNetwork, type Network } from '../testbed/netns.ts';
import { runToEnd } from '../testbed/process.ts';
import { tempDir } from '../testbed/run.ts';

const SCRIPT = join(import.meta.dirname, '../../systemd/mk-docker-opts.sh');
const SHELLS = [['dash'], ['bash'], ['bash', '--posix'], ['busybox', 'sh']] as const;
const SUBNET_ENV =
  'FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.91.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n';

interface Run {
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Content of the subnet file; null: there is none. */
  readonly subnetEnv?: string | null;
}

describe.each(SHELLS.map((shell) => ({ shell, name: shell.join(' ') })))(
  'mk-docker-opts.sh, $name',
  ({ shell }) => {
    let dir: string;
    let output: string;
    beforeEach(() => {
      dir = tempDir('mk-docker-opts');
      output = join(dir, 'out.env');
    });
    afterEach(() => rmSync(dir, { recursive: true }));

    /** Runs the script; `content` is what it wrote, undefined when it wrote nothing. */
    const mk = ({ args = [], env = {}, subnetEnv = SUBNET_ENV }: Run) => {
      const input = join(dir, 'subnet.env');
      if (subnetEnv !== null) writeFileSync(input, subnetEnv);
      const [program, ...rest] = [...shell, SCRIPT, '-f', input, '-d', output, ...args];
      const { status, stderr, stdout } = spawnSync(program, rest, {
        env: { PATH: process.env['PATH'], ...env },
        encoding: 'utf8',
        cwd: dir,
      });
      const written = readdirSync(dir).includes('out.env');
      return { status, stderr, stdout, content: written ? readFileSync(output, 'utf8') : undefined };
    };
    /** Fails with one message that fits, writes nothing, and leaves an earlier output alone. */
    const expectRefusal = (run: Run, message: RegExp) => {
      const { status, stderr, content } = mk(run);
      expect({ status, content }).toEqual({ status: 1, content: undefined });
      expect(stderr).toMatch(message);
      writeFileSync(output, 'earlier');
      expect(mk(run)).toMatchObject({ status: 1, content: 'earlier' });
      expect(readdirSync(dir).filter((name) => name.endsWith('.tmp'))).toEqual([]);
      rmSync(output);
    };

    test.each(combinations())('$label', (run) => {
      const { args, env, subnetFile, subnetEnv, outputFile, expected } = run;
      const onThisHost = (path: string) => join(dir, path);
      mkdirSync(join(dir, 'run/elsewhere'), { recursive: true });
      mkdirSync(join(dir, 'run/flannel'));
      writeFileSync(onThisHost(subnetFile), subnetEnv);
      const [program = '', ...words] = onHost({ dir }, [...shell, SCRIPT, ...args]);
      const { status, stderr, stdout } = spawnSync(program, words, {
        env: { PATH: process.env['PATH'], ...env },
        encoding: 'utf8',
      });
      expect({ status, stderr, stdout }).toEqual({ status: 0, stderr: '', stdout: '' });
      expect(readFileSync(onThisHost(outputFile), 'utf8')).toBe(expected);
      const files = readdirSync(onThisHost('/run'), { recursive: true, withFileTypes: true });
      const written = files
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name));
      expect(written.toSorted()).toEqual([subnetFile, outputFile].map(onThisHost).toSorted());
    });

    test('options may stand together, repeated (the last counts) and before words that are ignored', () => {
      const expected = 'DOCKER_NETWORK_OPTIONS=" --bip=172.20.91.1/24 --mtu=1500"\n';
      expect(mk({ args: ['-cmkX', '-kDOCKER_NETWORK_OPTIONS', '--', '-x'] }).content).toBe(expected);
      expect(mk({ args: ['-mck', 'DOCKER_NETWORK_OPTIONS', 'more', '-i'] }).content).toBe(expected);
    });

    test('the subnet file itself may be the output, as many units have it', () => {
      writeFileSync(output, SUBNET_ENV);
      const script = [...shell, SCRIPT, '-f', output, '-k', 'DOCKER_NETWORK_OPTIONS', '-d', output];
      expect(spawnSync(script[0] ?? '', script.slice(1)).status).toBe(0);
      expect(readFileSync(output, 'utf8')).toBe(
        [
          'DOCKER_OPT_BIP="--bip=172.20.91.1/24"',
          'DOCKER_OPT_IPMASQ="--ip-masq=true"',
          'DOCKER_OPT_MTU="--mtu=1500"',
          'DOCKER_NETWORK_OPTIONS=" --bip=172.20.91.1/24 --ip-masq=true --mtu=1500"',
          '',
        ].join('\n'),
      );
    });

    test('a full disk is a failure, and leaves what was there', () => {
      writeFileSync(join(dir, 'subnet.env'), SUBNET_ENV);
      mkdirSync(join(dir, 'run'));
      const onFullDisk = `
        mount -t tmpfs -o size=4k tmpfs /run
        echo earlier >/run/docker
        ${quoted(...shell, SCRIPT, '-f', join(dir, 'subnet.env'))} -d /run/docker || echo "exit code $?"
        cat /run/docker
        ls -A /run`;
      const [program = '', ...words] = onHost({ dir }, ['sh', '-c', onFullDisk]);
      const { stdout, stderr } = spawnSync(program, words, { encoding: 'utf8' });
      expect(stdout).toBe('exit code 1\nearlier\ndocker\n');
      expect(stderr).toMatch(/\/run\/docker cannot be written/);
    });

    test('takes DOCKER_OPT_ variables along, sorted by name, blanks and quotes as they are', () => {
      const env = {
        DOCKER_OPT_A: '--label=a  b',
        DOCKER_OPT_MTU_HINT: "--x='y'",
        DOCKER_OPT_EMPTY: '',
        NOT_DOCKER_OPT_B: '--no',
        DECOY: 'x\nDOCKER_OPT_DECOY=1\n',
      };
      expect(mk({ env }).content).toBe(
        [
          'DOCKER_OPT_A="--label=a  b"',
          'DOCKER_OPT_BIP="--bip=172.20.91.1/24"',
          'DOCKER_OPT_EMPTY=""',
          'DOCKER_OPT_IPMASQ="--ip-masq=true"',
          'DOCKER_OPT_MTU="--mtu=1500"',
          `DOCKER_OPT_MTU_HINT="--x='y'"`,
          `DOCKER_OPTS=" --label=a  b --bip=172.20.91.1/24  --ip-masq=true --mtu=1500 --x='y'"`,
          '',
        ].join('\n'),
      );
    });

    test('FLANNEL_ variables fill what the file lacks, and the file wins', () => {
      const env = { FLANNEL_MTU: '1400', FLANNEL_SUBNET: '10.0.0.1/24', FLANNEL_IPMASQ: 'true' };
      const { content } = mk({ args: ['-c'], env, subnetEnv: 'FLANNEL_SUBNET="172.20.91.1/24"\n' });
      expect(content).toBe('DOCKER_OPTS=" --bip=172.20.91.1/24 --ip-masq=false --mtu=1400"\n');
    });

    test('an IPv6-only network has no --bip', () => {
      const subnetEnv = 'FLANNEL_IPV6_SUBNET=fc00:1::1/64\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=true\n';
      expect(mk({ args: ['-c'], subnetEnv }).content).toBe('DOCKER_OPTS=" --ip-masq=false --mtu=1500"\n');
    });

    test('a subnet file that is missing, empty or without options is a failure', () => {
      expectRefusal({ subnetEnv: null }, /subnet\.env does not exist; is flanneld ready/);
      rmSync(join(dir, 'subnet.env'), { force: true });
      expectRefusal({ subnetEnv: null, env: { FLANNEL_SUBNET: '10.0.0.1/24' } }, /does not exist/);
      expectRefusal({ subnetEnv: '' }, /is empty/);
      expectRefusal({ subnetEnv: '\n# nothing\nFLANNEL_NETWORK=172.20.0.0/16\n' }, /no FLANNEL_SUBNET/);
    });

    test('a subnet file that is broken is a failure, wherever it breaks', () => {
      expectRefusal({ subnetEnv: `${SUBNET_ENV}"(\n` }, /cannot be used/);
      expectRefusal({ subnetEnv: `no-such-command\n${SUBNET_ENV}` }, /cannot be used/);
      expectRefusal({ subnetEnv: `exit 0\n${SUBNET_ENV}` }, /cannot be used/);
      expectRefusal({ subnetEnv: SUBNET_ENV.replaceAll('\n', '\r\n') }, /FLANNEL_SUBNET is no IPv4 address/);
    });

    test('what the subnet file prints is no output', () => {
      const { content } = mk({ args: ['-c'], subnetEnv: `echo DOCKER_OPTS=--evil\n${SUBNET_ENV}` });
      expect(content).toBe('DOCKER_OPTS=" --bip=172.20.91.1/24 --ip-masq=true --mtu=1500"\n');
    });

    test.each([
      '172.20.91.1',
      '172.20.91.1/33',
      '172.20.91/24.1',
      '172.20.91.01/24',
      '172.20.256.1/24',
      'x/24',
      '1.2.3.4/5/6',
    ])('FLANNEL_SUBNET=%s is refused', (subnet) =>
      expectRefusal({ subnetEnv: `FLANNEL_SUBNET=${subnet}\n` }, /FLANNEL_SUBNET is no IPv4 address/),
    );

    test('a bad MTU is refused; a bad FLANNEL_IPMASQ too, unless -m leaves it out', () => {
      expectRefusal({ subnetEnv: 'FLANNEL_MTU=1500x\n' }, /FLANNEL_MTU is no number/);
      for (const value of ['TRUE', '1', 'yes']) {
        const subnetEnv = `FLANNEL_SUBNET=172.20.91.1/24\nFLANNEL_IPMASQ=${value}\n`;
        expectRefusal({ subnetEnv }, new RegExp(`neither true nor false: '${value}'`));
        expect(mk({ args: ['-m', '-c'], subnetEnv }).content).toBe('DOCKER_OPTS=" --bip=172.20.91.1/24"\n');
        rmSync(output);
      }
    });

    test('a bad option, a missing value, -h and a bad key exit 1 and say how it is used', () => {
      expectRefusal({ args: ['-x'] }, /usage: mk-docker-opts\.sh[\s\S]*unknown option -x/);
      expectRefusal({ args: ['-k'] }, /usage: [\s\S]*option -k needs a value/);
      expectRefusal({ args: ['-h'] }, /usage: /);
      for (const key of ['', '1A', 'A B', 'A;touch pwned', '$(touch pwned)']) {
        expectRefusal({ args: ['-k', key] }, /-k needs the name of a variable/);
      }
      expect(readdirSync(dir)).not.toContain('pwned');
    });

    test('the file has mode 0666 less the umask, and replaces what was there in one step', () => {
      writeFileSync(output, 'earlier');
      chmodSync(output, 0o600);
      linkSync(output, join(dir, 'linked'));
      const masks = { '022': 0o644, '027': 0o640, '077': 0o600, '000': 0o666 };
      for (const [mask, mode] of Object.entries(masks)) {
        const script = `umask ${mask}; exec ${quoted(...shell, SCRIPT)} -f subnet.env -d out.env`;
        writeFileSync(join(dir, 'subnet.env'), SUBNET_ENV);
        expect(spawnSync('sh', ['-c', script], { cwd: dir }).status).toBe(0);
        expect(statSync(output).mode & 0o777).toBe(mode);
      }
      expect(readFileSync(join(dir, 'linked'), 'utf8')).toBe('earlier');
    });

    test('a symbolic link is replaced, a folder and a missing folder are refused, a pipe is written to', () => {
      writeFileSync(join(dir, 'target'), 'untouched');
      symlinkSync('target', output);
      expect(mk({ args: ['-c'] }).status).toBe(0);
      expect(lstatSync(output).isFile()).toBe(true);
      expect(readFileSync(join(dir, 'target'), 'utf8')).toBe('untouched');
      expect(mk({ args: ['-d', join(dir, 'no/such/file')] })).toMatchObject({ status: 1 });
      mkdirSync(join(dir, 'folder'));
      expect(mk({ args: ['-d', join(dir, 'folder')] }).stderr).toMatch(/is a folder/);
      expect(readdirSync(join(dir, 'folder'))).toEqual([]);
      const toPipe = `${quoted(...shell, SCRIPT)} -f subnet.env -c -d /dev/stdout | cat`;
      const piped = spawnSync('sh', ['-c', toPipe], { cwd: dir, encoding: 'utf8' });
      expect(piped.stdout).toBe('DOCKER_OPTS=" --bip=172.20.91.1/24 --ip-masq=true --mtu=1500"\n');
    });
  },
);

describe('mk-docker-opts.sh on a host', () => {
  const dir = tempDir('mk-docker-opts-host');
  let network: Network | undefined;
  afterAll(async () => {
    await network?.close();
    rmSync(dir, { recursive: true });
  });

  test('reads and writes below /run, and refuses when the own subnet is routed to another host', async () => {
    network = await makeNetwork([{ addresses: ['10.211.55.100/24'] }]);
    const [net] = network.hosts;
    if (net === undefined) throw new Error('a host was asked for');
    const place = { dir, namespace: net.namespace };
    const run = runFolder(place);
    mkdirSync(join(run, 'flannel'), { recursive: true });
    writeFileSync(join(run, 'flannel/subnet.env'), SUBNET_ENV);
    // Routes that only look like it: longer, shorter, a neighbour's, one without a gateway.
    for (const route of ['172.20.91.0/25', '172.20.0.0/16', '172.20.9.0/24', '2.172.20.91/32']) {
      await net.ip(`route add ${route} via 10.211.55.101`);
    }
    await net.ip('route add 172.20.91.0/24 dev eth0');
    const once = async () => await runToEnd(onHost(place, ['sh', SCRIPT]));
    expect((await once()).exit.code).toBe(0);
    const written = readFileSync(join(run, 'docker_opts.env'), 'utf8');
    expect(written).toContain('DOCKER_OPTS=" --bip=172.20.91.1/24 --ip-masq=true --mtu=1500"');

    rmSync(join(run, 'docker_opts.env'));
    const gateways = ['via 10.211.55.101', 'nexthop via 10.211.55.101 nexthop via 10.211.55.102'];
    for (const gateway of gateways) {
      await net.ip(`route replace 172.20.91.0/24 ${gateway}`);
      const { exit, output } = await once();
      expect(exit.code).toBe(1);
      expect(output).toContain('172.20.91.0/24 is routed via 10.211.55.101');
      expect(readdirSync(run)).not.toContain('docker_opts.env');
    }
  });
});

/** Where the combined key has a value already: it is kept in front, the file's wins. */
const earlierValues = ['no key', 'key in env', 'key in file', 'key in both'] as const;

/** All 64 combinations of the six options, each with every kind of earlier value and every kind of FLANNEL_IPMASQ in turn. */
function combinations() {
  return Array.from({ length: 64 }, (_, bits) =>
    ['f', 'd', 'i', 'c', 'm', 'k'].filter((__, bit) => (bits & (1 << bit)) !== 0),
  ).flatMap((letters, at) =>
    earlierValues.map((earlier, index) =>
      combination(letters, earlier, ['true', 'false', undefined][(at + index) % 3]),
    ),
  );
}

/** One run of the script and the bytes that are due; paths are the host's. */
function combination(
  letters: readonly string[],
  earlier: (typeof earlierValues)[number],
  ipMasq: string | undefined,
) {
  const has = (letter: string) => letters.includes(letter);
  const key = has('k') ? 'DOCKER_NETWORK_OPTIONS' : 'DOCKER_OPTS';
  const subnetFile = has('f') ? '/run/elsewhere/subnet.env' : '/run/flannel/subnet.env';
  const outputFile = has('d') ? '/run/elsewhere/docker' : '/run/docker_opts.env';
  const values: Readonly<Record<string, string>> = { f: subnetFile, d: outputFile, k: key };
  const inFile = earlier === 'key in file' || earlier === 'key in both';
  const inEnvironment = earlier === 'key in env' || earlier === 'key in both';
  const lines = [
    'FLANNEL_NETWORK=172.20.0.0/16',
    'FLANNEL_SUBNET=172.20.91.1/24',
    'FLANNEL_MTU=1500',
    ...(ipMasq === undefined ? [] : [`FLANNEL_IPMASQ=${ipMasq}`]),
    ...(inFile ? [`${key}="--of-file -a"`] : []),
  ];
  const masquerade = has('m') || ipMasq === undefined ? [] : [['IPMASQ', `--ip-masq=${ipMasq !== 'true'}`]];
  const variables = [['BIP', '--bip=172.20.91.1/24'], ...masquerade, ['MTU', '--mtu=1500']];
  const individual = variables.map(([name, value]) => `DOCKER_OPT_${name}="${value}"\n`).join('');
  const kept = inFile ? '--of-file -a ' : inEnvironment ? '--of-environment ' : '';
  const combined = `${key}="${kept}${variables.map(([, value]) => ` ${value}`).join('')}"\n`;
  const both = !has('i') && !has('c');
  return {
    // vitest cuts longer ones off.
    label: `-${letters.join('') || '(none)'}, masq ${ipMasq ?? 'absent'}, ${earlier}`,
    args: letters.flatMap((letter) => [`-${letter}`, ...(values[letter] ? [values[letter]] : [])]),
    env: inEnvironment ? { [key]: '--of-environment' } : {},
    /** Where the subnet file lies, and what it holds. */
    subnetFile,
    subnetEnv: lines.map((line) => `${line}\n`).join(''),
    /** Where the output has to appear. */
    outputFile,
    expected: `${both || has('i') ? individual : ''}${both || has('c') ? combined : ''}`,
  };
}
