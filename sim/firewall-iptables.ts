import { type Family, parseSubnet } from '../src/ip/ip.ts';

/** What a simulated program answers. */
export interface Answer {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface Chain {
  /** undefined: not built in. */
  policy: string | undefined;
  rules: string[];
}

type Table = Map<string, Chain>;

/** Chains built into each table, in the order in which iptables-save prints them. */
const builtIn: Readonly<Record<string, readonly string[]>> = {
  raw: ['PREROUTING', 'OUTPUT'],
  filter: ['INPUT', 'FORWARD', 'OUTPUT'],
  nat: ['PREROUTING', 'INPUT', 'OUTPUT', 'POSTROUTING'],
};

const targets = new Set(['ACCEPT', 'DROP', 'RETURN', 'REJECT', 'MASQUERADE']);

class Refusal extends Error {}

/** The tables of one family, and the programs that read and write them. */
export class SimIptables {
  readonly #family: Family;
  readonly #tables = new Map<string, Table>();

  constructor(family: Family) {
    this.#family = family;
  }

  /** `iptables-save -t TABLE` */
  save(name: string): Answer {
    const table = this.#table(name);
    if (table === undefined)
      return failed(1, `Cannot initialize: Table does not exist (do you need to insmod?)`);
    const chains = [...table].map(([chain, { policy }]) => `:${chain} ${policy ?? '-'} [0:0]`);
    const rules = [...table].flatMap(([chain, { rules: texts }]) =>
      texts.map((text) => `-A ${chain} ${text}`.trim()),
    );
    return done(['# Generated', `*${name}`, ...chains, ...rules, 'COMMIT', '# Completed', ''].join('\n'));
  }

  /** `iptables-save`: the tables that somebody has used. */
  saveAll(): Answer {
    return done([...this.#tables.keys()].map((name) => this.save(name).stdout).join(''));
  }

  /** `iptables-restore`: each table's lines together, or none of them. */
  restore(input: string, flush: boolean): Answer {
    let name = '';
    let work: Table | undefined;
    for (const [index, line] of input.split('\n').entries()) {
      if (line === '' || line.startsWith('#')) continue;
      try {
        if (line.startsWith('*')) {
          name = line.slice(1);
          work = copyOf(this.#table(name) ?? refuse(`no table ${name}`), flush);
        } else if (work === undefined) refuse('no table');
        else if (line === 'COMMIT') this.#tables.set(name, work);
        else applyLine(work, line, this.#family);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        return failed(1, `iptables-restore: line ${index + 1} failed: ${error.message}`);
      }
    }
    return done('');
  }

  /** `iptables -t TABLE -F`: rules go, chains and policies stay. */
  flush(name: string): Answer {
    for (const chain of this.#table(name)?.values() ?? []) chain.rules = [];
    return done('');
  }

  #table(name: string): Table | undefined {
    const chains = builtIn[name];
    if (chains === undefined) return undefined;
    const table =
      this.#tables.get(name) ?? new Map(chains.map((chain) => [chain, { policy: 'ACCEPT', rules: [] }]));
    this.#tables.set(name, table);
    return table;
  }
}

function copyOf(table: Table, flush: boolean): Table {
  const kept = [...table].filter(([, { policy }]) => !flush || policy !== undefined);
  return new Map(kept.map(([name, { policy, rules }]) => [name, { policy, rules: flush ? [] : [...rules] }]));
}

function applyLine(table: Table, line: string, family: Family): void {
  const [, declared, policy] = /^:(\S+) (\S+)/.exec(line) ?? [];
  if (declared !== undefined) {
    const chain = table.get(declared);
    // A chain that is declared is emptied, even with --noflush; one that is built in is not.
    if (chain?.policy === undefined) table.set(declared, { policy: undefined, rules: [] });
    else if (policy !== undefined && policy !== '-') chain.policy = policy;
    return;
  }
  const [, option = '', name = '', rest = ''] = /^-(\w) (\S+) ?(.*)$/.exec(line) ?? [];
  const edit = edits[option] ?? refuse(`unknown option ${line}`);
  edit({ table, name, rest, family });
}

interface Edit {
  readonly table: Table;
  readonly name: string;
  readonly rest: string;
  readonly family: Family;
}

const edits: Readonly<Record<string, (edit: Edit) => void>> = {
  N: ({ table, name }) => {
    if (table.has(name)) refuse('Chain already exists.');
    table.set(name, { policy: undefined, rules: [] });
  },
  X: ({ table, name }) => {
    const isUsed = [...table.values()].some(({ rules }) => rules.some((rule) => targetOf(rule) === name));
    if (chainOf(table, name).rules.length > 0 || isUsed) refuse('CHAIN_DEL failed (Device or resource busy)');
    table.delete(name);
  },
  F: ({ table, name }) => {
    chainOf(table, name).rules = [];
  },
  A: ({ table, name, rest, family }) => {
    chainOf(table, name).rules.push(checked(table, canonicalRule(rest, family)));
  },
  I: ({ table, name, rest, family }) => {
    const [, number = '1', text = ''] = /^(?:(\d+) )?(.*)$/.exec(rest) ?? [];
    const { rules } = chainOf(table, name);
    if (Number(number) > rules.length + 1) refuse('Index of insertion too big.');
    rules.splice(Number(number) - 1, 0, checked(table, canonicalRule(text, family)));
  },
  D: ({ table, name, rest, family }) => {
    const { rules } = chainOf(table, name);
    const index = rules.indexOf(canonicalRule(rest, family));
    if (index < 0) refuse('Bad rule (does a matching rule exist in that chain?).');
    rules.splice(index, 1);
  },
};

function chainOf(table: Table, name: string): Chain {
  return table.get(name) ?? refuse('No chain/target/match by that name.');
}

function checked(table: Table, rule: string): string {
  const target = targetOf(rule);
  if (
    target !== undefined &&
    !targets.has(target) &&
    table.get(target)?.policy === undefined &&
    !table.has(target)
  ) {
    refuse('No chain/target/match by that name.');
  }
  return rule;
}

function targetOf(rule: string): string | undefined {
  return / ?-[jg] (\S+)/.exec(rule)?.[1];
}

/** As iptables-save prints it: addresses first, masked, and the target's default option. */
function canonicalRule(text: string, family: Family): string {
  const addresses: string[] = [];
  const rest = text.replaceAll(
    /(! )?-([sd]) (\S+) ?/g,
    (_, not: string | undefined, option: string, value: string) => {
      const subnet = parseSubnet(value.includes('/') ? value : `${value}/${family === 4 ? 32 : 128}`);
      if (subnet?.family !== family) refuse(`host/network ${value} not found`);
      addresses.push(`${not ?? ''}-${option} ${subnet.text}`);
      return '';
    },
  );
  const ordered = addresses.toSorted((a, b) => Number(a.includes('-d ')) - Number(b.includes('-d ')));
  const unreachable = family === 4 ? 'icmp-port-unreachable' : 'icmp6-port-unreachable';
  const full = rest.endsWith('-j REJECT') ? `${rest} --reject-with ${unreachable}` : rest;
  return [...ordered, full].join(' ');
}

function refuse(message: string): never {
  throw new Refusal(message);
}

export function done(stdout: string): Answer {
  return { exitCode: 0, stdout, stderr: '' };
}

export function failed(exitCode: number, stderr: string): Answer {
  return { exitCode, stdout: '', stderr };
}
