import type { Command, CommandInput, ParsedCommand } from './commands.ts';
import { etcdFlags, flags, switchFlag } from './flags.ts';
import { type EtcdAccess, etcdAccess, tellWhere } from './options.ts';

/** `config validate`: asks nobody. */
export interface ValidateOptions {
  readonly verb: 'validate';
  readonly file: string;
  readonly json: boolean;
}

/** The other verbs of `config`. */
export type ConfigAccess = EtcdAccess & { readonly json: boolean } & (
    | { readonly verb: 'show' | 'history' }
    | { readonly verb: 'edit'; readonly yes: boolean; readonly dryRun: boolean }
    | { readonly verb: 'set'; readonly file: string; readonly yes: boolean; readonly dryRun: boolean }
  );

/** `config`: which of its verbs, and with what. A file `-` is standard input. */
export type ConfigOptions = ValidateOptions | ConfigAccess;

const { help } = flags;
const json = switchFlag('json', 'print one JSON document');
const jsonFlag = { json } as const;
const storeFlags = {
  json,
  yes: switchFlag('yes', 'store it without a question'),
  dryRun: switchFlag('dry-run', 'show what would change, and store nothing'),
} as const;

function config(
  { settings, warn, warnings }: CommandInput,
  options: (access: EtcdAccess) => ConfigAccess,
): ParsedCommand {
  tellWhere(settings, warn);
  return { command: 'config', options: options(etcdAccess(settings, warn)), warnings };
}

/** The rows of `config`. */
export const configCommands: readonly Command[] = [
  {
    words: ['config', 'show'],
    describe: 'Shows the network configuration in etcd with its defaults, and which of its values are given.',
    flags: { json, ...etcdFlags, help },
    asService: () => true,
    read: (input) =>
      config(input, (access) => ({ ...access, verb: 'show', ...input.settings.values(jsonFlag) })),
  },
  {
    words: ['config', 'validate'],
    operand: '<FILE>',
    describe:
      'Says all that is wrong with the network configuration in FILE (-: standard input), where, and what flanneld would make of it. Asks nobody. Exits 1 when the daemon would not accept it.',
    flags: { json, help },
    read: ({ settings, operands: [file = '-'] }) => ({
      command: 'config',
      options: { verb: 'validate', file, ...settings.values(jsonFlag) },
      warnings: [],
    }),
  },
  {
    words: ['config', 'set'],
    operand: '<FILE>',
    describe:
      'Stores FILE (-: standard input) as the network configuration. Checks it, shows what changes and which leases would no longer fit, and asks. Stores nothing when somebody else changes it meanwhile.',
    flags: { ...storeFlags, ...etcdFlags, help },
    asService: () => true,
    read: (input) =>
      config(input, (access) => {
        const [file = '-'] = input.operands;
        return { ...access, verb: 'set', file, ...input.settings.values(storeFlags) };
      }),
  },
  {
    words: ['config', 'edit'],
    describe:
      'Opens the network configuration in $VISUAL or $EDITOR (else vi), and stores the result as config set does.',
    flags: { ...storeFlags, ...etcdFlags, help },
    asService: () => true,
    read: (input) =>
      config(input, (access) => ({ ...access, verb: 'edit', ...input.settings.values(storeFlags) })),
  },
  {
    words: ['config', 'history'],
    describe: 'Shows the versions of the network configuration that etcd still has, newest first.',
    flags: { json, ...etcdFlags, help },
    asService: () => true,
    read: (input) =>
      config(input, (access) => ({ ...access, verb: 'history', ...input.settings.values(jsonFlag) })),
  },
];
