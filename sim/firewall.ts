import {
  CommandError,
  type CommandOptions,
  type CommandResult,
  type Commands,
} from '../src/runtime/effects.ts';
import { type Answer, done, failed, SimIptables } from './firewall-iptables.ts';
import { SimNft } from './firewall-nft.ts';

/** A program that was run. */
export interface Call {
  readonly program: string;
  readonly args: readonly string[];
  readonly stdin: string;
}

/** A host's iptables, ip6tables and nft in memory, with faults to order. */
export class SimFirewall implements Commands {
  /** Programs that are not installed. */
  readonly missing = new Set<string>();
  /** Every program that was run, in order. */
  readonly calls: Call[] = [];
  version = '1.8.9';
  /** Called before a program runs: may change the tables under it, keep it waiting, answer in its place, or throw. */
  before: ((call: Call) => Answer | undefined | Promise<undefined>) | undefined;
  readonly #iptables = { 4: new SimIptables(4), 6: new SimIptables(6) };
  readonly #nft = new SimNft();

  async run(
    program: string,
    args: readonly string[],
    { stdin = '' }: CommandOptions,
    signal: AbortSignal,
  ): Promise<CommandResult> {
    signal.throwIfAborted();
    if (this.missing.has(program)) throw new CommandError('COMMAND_MISSING', `${program} is not installed`);
    const call = { program, args, stdin };
    this.calls.push(call);
    const answer = await this.before?.(call);
    return answer ?? this.answer(call);
  }

  /** What the program does, without faults and uncounted. */
  answer({ program, args, stdin }: Call): Answer {
    if (program === 'nft') return this.#runNft(args, stdin);
    const [, six, kind] = /^ip(6?)tables(-save|-restore)?$/.exec(program) ?? [];
    if (six === undefined) throw new CommandError('COMMAND_MISSING', `${program} is not installed`);
    const tables = this.#iptables[six === '6' ? 6 : 4];
    const table = args[args.indexOf('-t') + 1] ?? 'filter';
    if (kind === '-save') return args.length === 0 ? tables.saveAll() : tables.save(table);
    if (kind === '-restore') return tables.restore(stdin, !args.includes('--noflush'));
    if (args.includes('--version')) return done(`${program} v${this.version} (nf_tables)\n`);
    return args.includes('-F')
      ? tables.flush(args.includes('-t') ? table : 'filter')
      : failed(2, `${args.join(' ')}?`);
  }

  #runNft(args: readonly string[], stdin: string): Answer {
    const [family = '', name = ''] = args.slice(-2);
    switch (args.slice(0, 3).join(' ')) {
      case '-j list table':
        return this.#nft.list(family, name);
      case '-j list ruleset':
        return this.#nft.listAll();
      case '-f -':
        return this.#nft.apply(stdin);
      case 'flush ruleset':
        return this.#nft.flush();
      default:
        return failed(1, `Error: syntax error, ${args.join(' ')}`);
    }
  }
}
