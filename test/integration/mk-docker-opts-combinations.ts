/** One run of the script and the bytes that are due; paths are the host's. */
interface Combination {
  readonly label: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Where the subnet file lies, and what it holds. */
  readonly subnetFile: string;
  readonly subnetEnv: string;
  /** Where the output has to appear. */
  readonly outputFile: string;
  readonly expected: string;
}

/** Where the combined key has a value already: it is kept in front, the file's wins. */
const earlierValues = ['no key', 'key in env', 'key in file', 'key in both'] as const;
type Earlier = (typeof earlierValues)[number];

interface Options {
  readonly f: boolean;
  readonly d: boolean;
  readonly i: boolean;
  readonly c: boolean;
  readonly m: boolean;
  readonly k: boolean;
}

/** All 64 combinations of the six options, each with every kind of earlier value and every kind of FLANNEL_IPMASQ in turn. */
export function combinations(): readonly Combination[] {
  return Array.from({ length: 64 }, (_, bits) => {
    const has = (bit: number) => (bits & (1 << bit)) !== 0;
    return { f: has(0), d: has(1), i: has(2), c: has(3), m: has(4), k: has(5) };
  }).flatMap((options, at) =>
    earlierValues.map((earlier, index) =>
      combination(options, earlier, ['true', 'false', undefined][(at + index) % 3]),
    ),
  );
}

function combination(options: Options, earlier: Earlier, ipMasq: string | undefined): Combination {
  const key = options.k ? 'DOCKER_NETWORK_OPTIONS' : 'DOCKER_OPTS';
  const subnetFile = options.f ? '/run/elsewhere/subnet.env' : '/run/flannel/subnet.env';
  const outputFile = options.d ? '/run/elsewhere/docker' : '/run/docker_opts.env';
  const args = [
    ...(options.f ? ['-f', subnetFile] : []),
    ...(options.d ? ['-d', outputFile] : []),
    ...(options.i ? ['-i'] : []),
    ...(options.c ? ['-c'] : []),
    ...(options.m ? ['-m'] : []),
    ...(options.k ? ['-k', key] : []),
  ];
  const letters = Object.entries(options).flatMap(([letter, given]) => (given ? [letter] : []));
  const inFile = earlier === 'key in file' || earlier === 'key in both';
  const inEnvironment = earlier === 'key in env' || earlier === 'key in both';
  const lines = [
    'FLANNEL_NETWORK=172.20.0.0/16',
    'FLANNEL_SUBNET=172.20.91.1/24',
    'FLANNEL_MTU=1500',
    ...(ipMasq === undefined ? [] : [`FLANNEL_IPMASQ=${ipMasq}`]),
    ...(inFile ? [`${key}="--of-file -a"`] : []),
  ];
  return {
    // vitest cuts longer ones off.
    label: `-${letters.join('') || '(none)'}, masq ${ipMasq ?? 'absent'}, ${earlier}`,
    args,
    env: inEnvironment ? { [key]: '--of-environment' } : {},
    subnetFile,
    subnetEnv: lines.map((line) => `${line}\n`).join(''),
    outputFile,
    expected: due(options, key, inFile ? '--of-file -a' : inEnvironment ? '--of-environment' : '', ipMasq),
  };
}

function due(options: Options, key: string, earlier: string, ipMasq: string | undefined): string {
  const masquerade = options.m || ipMasq === undefined ? [] : [['IPMASQ', `--ip-masq=${ipMasq !== 'true'}`]];
  const variables = [['BIP', '--bip=172.20.91.1/24'], ...masquerade, ['MTU', '--mtu=1500']];
  const individual = variables.map(([name, value]) => `DOCKER_OPT_${name}="${value}"\n`).join('');
  const all = variables.map(([, value]) => ` ${value}`).join('');
  const combined = `${key}="${earlier === '' ? '' : `${earlier} `}${all}"\n`;
  const both = !options.i && !options.c;
  return `${both || options.i ? individual : ''}${both || options.c ? combined : ''}`;
}
