import { defineConfig, type OxlintOverride } from 'oxlint';

const aboveSubnet = ['native', 'kernel', 'arp', 'backend', 'firewall', 'migrate', 'daemon', 'cli'];

/** What each folder of src/ must not know: imports point one way, from daemon/ and cli/ down to ip/ and runtime/. */
const unknownTo: Readonly<Record<string, readonly string[]>> = {
  ip: ['arp', 'runtime', 'native', 'kernel', 'subnet', 'backend', 'firewall', 'migrate', 'daemon', 'cli'],
  runtime: ['arp', 'ip', 'native', 'kernel', 'subnet', 'backend', 'firewall', 'migrate', 'daemon', 'cli'],
  native: ['kernel', 'arp', 'subnet', 'backend', 'firewall', 'migrate', 'daemon', 'cli'],
  kernel: ['arp', 'subnet', 'backend', 'firewall', 'migrate', 'daemon', 'cli'],
  arp: ['subnet', 'backend', 'firewall', 'migrate', 'daemon', 'cli'],
  subnet: aboveSubnet,
  'subnet/registry': [...aboveSubnet, 'subnet/etcd', 'subnet/etcd-v2', 'subnet/config', 'subnet/lease'],
  'subnet/etcd': [...aboveSubnet, 'subnet/etcd-v2', 'subnet/config', 'subnet/lease'],
  'subnet/etcd-v2': [...aboveSubnet, 'subnet/config', 'subnet/lease'],
  'subnet/config': [...aboveSubnet, 'subnet/etcd', 'subnet/etcd-v2', 'subnet/lease'],
  'subnet/lease': [...aboveSubnet, 'subnet/etcd', 'subnet/etcd-v2'],
  backend: ['native', 'arp', 'firewall', 'migrate', 'daemon', 'cli'],
  firewall: ['native', 'kernel', 'arp', 'subnet', 'backend', 'migrate', 'daemon', 'cli'],
  migrate: ['native', 'kernel', 'arp', 'backend', 'firewall', 'subnet/etcd', 'daemon', 'cli'],
  cli: ['native', 'daemon'],
  daemon: [],
};

/** Node's ways to time, chance, files and the process: the core gets them as arguments, so that it can be simulated. */
const effects = ['process', 'fs', 'timers', 'perf_hooks', 'crypto', 'child_process', 'os', 'dgram', 'http'];
const effectsOf = (names: readonly string[]) =>
  names.flatMap((name) => [name, `${name}/**`, `node:${name}`, `node:${name}/**`]);
const core = [
  'ip',
  'runtime',
  'backend',
  'firewall',
  'subnet',
  'subnet/registry',
  'subnet/config',
  'subnet/lease',
  'migrate',
];
const nearCore = ['native', 'kernel', 'arp', 'subnet/etcd', 'subnet/etcd-v2'];

/** The one folder that imports each dependency. */
const importerOf: Readonly<Record<string, string>> = {
  koffi: 'native',
  netlink: 'kernel',
  etcd3: 'subnet/etcd',
  '@grpc/grpc-js': 'subnet/etcd',
  'ip-cidr': 'ip',
  pino: 'daemon',
  'prom-client': 'daemon',
  'pino-pretty': 'daemon',
  re2js: 'daemon',
  yargs: 'daemon',
};

const restrictedImports = Object.entries(unknownTo).map(
  ([folder, unknown]): OxlintOverride => ({
    files: [`src/${folder}/**`],
    rules: {
      'no-restricted-imports': [
        'error',
        {
          patterns: [
            ...unknown.map((other) => ({
              group: [`**/${other.replace('subnet/', '')}/**`],
              message: `imports point one way: ${folder}/ does not know ${other}/`,
            })),
            ...Object.entries(importerOf)
              .filter(([, importer]) => importer !== folder)
              .map(([name, importer]) => ({
                group: [name, `${name}/**`],
                message: `only src/${importer}/ imports ${name}`,
              })),
            {
              group: effectsOf(
                core.includes(folder) ? effects : nearCore.includes(folder) ? ['process'] : ['nothing'],
              ),
              message: 'it comes in as an argument; only daemon/ and cli/ touch the process',
            },
            { group: ['**/sim/**', '**/test/**'], message: 'what ships knows neither simulation nor tests' },
          ],
        },
      ],
    },
  }),
);

type Restricted = ['error', ...{ name: string; message: string }[]];
const forbid = (message: string, names: readonly string[]): Restricted => [
  'error',
  ...names.map((name) => ({ name, message })),
];

const clocks = ['Date', 'performance', 'setTimeout', 'setInterval', 'setImmediate'];

export default defineConfig({
  plugins: ['typescript', 'import', 'unicorn', 'oxc', 'promise'],
  categories: { correctness: 'error', suspicious: 'error' },
  options: { typeAware: true },
  rules: {
    'typescript/no-explicit-any': 'error',
    'typescript/no-floating-promises': 'error',
    'typescript/no-misused-promises': 'error',
    'typescript/ban-ts-comment': 'error',
    'import/no-cycle': 'error',
    // Decided otherwise: the compiler's own checks, or matters of taste.
    'typescript/no-unsafe-type-assertion': 'off',
    'typescript/consistent-return': 'off',
    'no-await-in-loop': 'off',
    'no-underscore-dangle': 'off',
    'import/no-named-as-default': 'off',
    'import/no-named-as-default-member': 'off',
    'unicorn/consistent-function-scoping': 'off',
    'promise/always-return': 'off',
  },
  overrides: [
    ...restrictedImports,
    {
      // The core can be simulated: time, chance and the process come in as arguments.
      files: [
        'src/subnet/*.ts',
        'src/subnet/{registry,config,lease}/**',
        'src/backend/**',
        'src/firewall/**',
        'src/migrate/**',
        'src/runtime/**',
        'src/ip/**',
      ],
      rules: {
        'no-restricted-globals': forbid('it comes in as an argument', [
          'process',
          'crypto',
          'globalThis',
          ...clocks,
        ]),
        'no-restricted-properties': [
          'error',
          { object: 'Math', property: 'random', message: 'randomness comes in as an argument' },
          { object: 'AbortSignal', property: 'timeout', message: 'time comes in as an argument' },
        ],
      },
    },
    {
      files: ['src/native/**', 'src/kernel/**', 'src/arp/**', 'src/subnet/etcd/**', 'src/subnet/etcd-v2/**'],
      rules: {
        'no-restricted-globals': forbid('only daemon/ and cli/ touch the process', ['process', 'globalThis']),
      },
    },
    {
      // setImmediate is how the virtual clock waits for promise chains to come to rest.
      files: ['sim/**'],
      rules: {
        'no-restricted-globals': forbid('a simulation runs on its virtual clock', [
          'Date',
          'performance',
          'setTimeout',
          'setInterval',
          'globalThis',
          'crypto',
        ]),
        'no-restricted-properties': [
          'error',
          { object: 'Math', property: 'random', message: 'a simulation is seeded' },
        ],
      },
    },
  ],
});
