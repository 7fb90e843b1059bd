import { type Answer, done, failed } from './firewall-iptables.ts';

interface Chain {
  readonly hook: readonly string[];
  readonly rules: { readonly handle: number; readonly text: string }[];
}

type Tables = Map<string, Map<string, Chain>>;

class Refusal extends Error {}

/** nftables' tables and nft, as far as rules of the kind the daemon writes go. */
export class SimNft {
  #tables: Tables = new Map();
  #handles = 0;

  /** `nft -j list table FAMILY NAME` */
  list(family: string, name: string): Answer {
    const chains = this.#tables.get(`${family} ${name}`);
    if (chains === undefined)
      return failed(1, `Error: No such file or directory\nlist table ${family} ${name}`);
    return printed(this.#itemsOf(family, name, chains));
  }

  /** `nft -j list ruleset` */
  listAll(): Answer {
    return printed(
      [...this.#tables].flatMap(([table, chains]) => {
        const [family = '', name = ''] = table.split(' ');
        return this.#itemsOf(family, name, chains);
      }),
    );
  }

  #itemsOf(family: string, name: string, chains: ReadonlyMap<string, Chain>): readonly object[] {
    const place = { family, table: name };
    const items = [...chains].flatMap(([chain, { hook, rules }]) => [
      { chain: { ...place, name: chain, handle: 0, ...hookFields(hook) } },
      ...rules.map(({ handle, text }) => ({ rule: { ...place, chain, handle, expr: expressions(text) } })),
    ]);
    return [{ table: { family, name, handle: 0 } }, ...items];
  }

  /** `nft -f -`: all lines, or none. */
  apply(script: string): Answer {
    const work: Tables = new Map(
      [...this.#tables].map(([name, chains]) => [
        name,
        new Map([...chains].map(([chain, { hook, rules }]) => [chain, { hook, rules: [...rules] }])),
      ]),
    );
    try {
      for (const line of script.split('\n').filter(Boolean)) this.#applyLine(work, line);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return failed(1, `Error: ${error.message}`);
    }
    this.#tables = work;
    return done('');
  }

  /** `nft flush ruleset` */
  flush(): Answer {
    this.#tables = new Map();
    return done('');
  }

  #applyLine(tables: Tables, line: string): void {
    const [, verb = '', what = '', table = '', chain = '', rest = ''] =
      /^(\w+) (table|chain|rule) (\w+ [\w-]+) ?([\w-]*) ?(.*)$/.exec(line) ?? refuse('syntax error');
    if (what === 'table') return this.#changeTable(tables, verb, table);
    const chains = tables.get(table) ?? refuse('Could not process rule: No such file or directory');
    if (what === 'chain') return changeChain(chains, verb, chain, rest);
    const { rules } = chains.get(chain) ?? refuse('Could not process rule: No such file or directory');
    if (verb === 'delete') {
      const index = rules.findIndex(({ handle }) => rest === `handle ${handle}`);
      if (index < 0) refuse('Could not process rule: No such file or directory');
      rules.splice(index, 1);
      return;
    }
    const rule = { handle: ++this.#handles, text: rest };
    if (verb === 'insert') rules.unshift(rule);
    else rules.push(rule);
  }

  #changeTable(tables: Tables, verb: string, table: string): void {
    if (verb === 'add' && !tables.has(table)) tables.set(table, new Map());
    if (verb === 'delete' && !tables.delete(table))
      refuse('Could not process rule: No such file or directory');
  }
}

function printed(items: readonly object[]): Answer {
  return done(`${JSON.stringify({ nftables: [{ metainfo: { json_schema_version: 1 } }, ...items] })}\n`);
}

function changeChain(chains: Map<string, Chain>, verb: string, name: string, rest: string): void {
  const chain = chains.get(name);
  if (verb === 'add') {
    const found = /type (\w+) hook (\w+) priority (-?\d+); policy (\w+);/.exec(rest)?.slice(1) ?? [];
    if (chain === undefined) chains.set(name, { hook: found, rules: [] });
    return;
  }
  if (chain === undefined) refuse('Could not process rule: No such file or directory');
  // The kernel takes the rules along.
  if (verb === 'flush') chain.rules.length = 0;
  else chains.delete(name);
}

function hookFields([type, hook, prio, policy]: readonly string[]): object {
  return hook === undefined ? {} : { type, hook, prio: Number(prio), policy };
}

/** nft's JSON of a rule's text. */
function expressions(text: string): readonly object[] {
  const found: object[] = [];
  let rest = text;
  for (;;) {
    const [all = '', protocol, field, not, address = ''] =
      /^(ip6?) ([sd]addr) (?:(!=) )?(\S+) ?/.exec(rest) ??
      /^meta mark & (\d+) == (\d+) ?/.exec(rest)?.slice(0, 1) ??
      [];
    if (all === '') break;
    rest = rest.slice(all.length);
    if (protocol === undefined) found.push(markMatch(all));
    else {
      const [addr, length] = address.split('/');
      const right = length === undefined ? addr : { prefix: { addr, len: Number(length) } };
      found.push({ match: { op: not ?? '==', left: { payload: { protocol, field } }, right } });
    }
  }
  const [verdict = '', flags] = rest.split(' ');
  return [...found, { [verdict]: flags === undefined ? null : { flags } }];
}

function markMatch(text: string): object {
  const [mask, value] = (text.match(/\d+/g) ?? []).map(Number);
  return { match: { op: '==', left: { '&': [{ meta: { key: 'mark' } }, mask] }, right: value } };
}

function refuse(message: string): never {
  throw new Refusal(message);
}
