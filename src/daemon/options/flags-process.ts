import type { Flag } from './flag.ts';
import { boolean, choice, filePathOrNone, listenAddress, portOrOff, verbosity } from './values.ts';

/** The process itself: health, log, help. */
export const processFlags = {
  healthzIp: {
    name: 'healthz-ip',
    group: 'Health',
    placeholder: 'IP',
    describe: 'address /healthz, /readyz and /metrics are served at',
    fallback: '0.0.0.0',
    parse: listenAddress,
  } satisfies Flag<string>,
  healthzPort: {
    name: 'healthz-port',
    group: 'Health',
    placeholder: 'PORT',
    describe: 'port they are served at; 0 switches them off',
    fallback: '0',
    parse: portOrOff,
  } satisfies Flag<number>,
  statusSocket: {
    name: 'status-socket',
    group: 'Health',
    placeholder: 'PATH',
    describe:
      'unix socket at which status is answered; empty: none (default: beside --subnet-file, .sock for .env)',
    parse: filePathOrNone,
  } satisfies Flag<string | undefined>,
  verbosity: {
    name: 'v',
    group: 'Log',
    placeholder: 'NUMBER',
    describe: 'verbosity; 1 and above is --log-level=debug',
    fallback: '0',
    parse: verbosity,
  } satisfies Flag<number>,
  logLevel: {
    name: 'log-level',
    group: 'Log',
    placeholder: 'LEVEL',
    describe: 'debug, info, warn or error; wins over -v (default: info)',
    parse: choice('debug', 'info', 'warn', 'error'),
  } satisfies Flag<'debug' | 'info' | 'warn' | 'error'>,
  logFormat: {
    name: 'log-format',
    group: 'Log',
    placeholder: 'FORMAT',
    describe:
      "json or pretty (default: pretty on a terminal and in systemd's journal, else json); the journal gets priorities",
    parse: choice('json', 'pretty'),
  } satisfies Flag<'json' | 'pretty'>,
  help: {
    name: 'help',
    group: 'Help',
    describe: 'print this and exit; -h too',
    parse: boolean,
    boolean: true,
    noEnvironment: true,
  } satisfies Flag<boolean>,
  version: {
    name: 'version',
    group: 'Help',
    describe: 'print the version and exit',
    parse: boolean,
    boolean: true,
    noEnvironment: true,
  } satisfies Flag<boolean>,
} as const;
