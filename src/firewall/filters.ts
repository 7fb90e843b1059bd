import type { Family } from '../ip/ip.ts';
import type { SavedTable } from './iptables-save.ts';
import { asJson, asList, asText, itemsOf, type Json } from './nft-table.ts';
import {
  type Action,
  addressTest,
  allOf,
  always,
  anyOf,
  type FilterChain,
  type FilterRule,
  type FilterTable,
  familyTest,
  type Hook,
  linkTest,
  never,
  not,
  rangeOf,
  type Test,
  unknown,
  type Verdict,
  when,
} from './walk.ts';

/** Ends of a packet's way: iptables' targets and nft's statements. All others but chains let it continue. */
const verdicts: Readonly<Record<string, Verdict>> = {
  drop: 'drop',
  reject: 'drop',
  return: 'return',
  accept: 'accept',
  // A program decides about a queued packet.
  nfqueue: 'accept',
  queue: 'accept',
  // A translated packet continues.
  masquerade: 'accept',
  snat: 'accept',
  dnat: 'accept',
  redirect: 'accept',
  netmap: 'accept',
};

const iptablesHooks: Readonly<Record<string, Hook['name']>> = {
  PREROUTING: 'prerouting',
  FORWARD: 'forward',
  POSTROUTING: 'postrouting',
};

/** A table of iptables' as tests and actions. */
export function iptablesFilter(
  program: FilterTable['program'],
  name: string,
  saved: SavedTable,
  family: Family,
): FilterTable {
  const chains = new Map<string, FilterChain>();
  for (const [chain, { policy, rules }] of saved) {
    const hook = policy === undefined ? undefined : iptablesHooks[chain];
    chains.set(chain, {
      rules: rules.map(({ words, text }) => ({ ...readIptablesRule(words, saved, family), text })),
      ...(hook === undefined ? {} : { hook: { name: hook, drops: policy === 'DROP' } }),
    });
  }
  return { program, name, families: [family], chains };
}

function readIptablesRule(
  words: readonly string[],
  saved: SavedTable,
  family: Family,
): Omit<FilterRule, 'text'> {
  const tests: Test[] = [];
  let negated = false;
  for (const [index, word] of words.entries()) {
    const value = words[index + 1] ?? '';
    if (word === '-j' || word === '-g') return { tests, action: targetOf(word, value, saved) };
    if (word === '!') {
      negated = true;
      continue;
    }
    // The value of the option before.
    if (!word.startsWith('-')) continue;
    const test = options[word]?.(value, family) ?? unknown;
    tests.push(negated ? not(test) : test);
    negated = false;
  }
  return { tests, action: { kind: 'continue' } };
}

/** The name of a match tests nothing itself. An unknown option may test for anything. */
const options: Readonly<Record<string, (value: string, family: Family) => Test>> = {
  '-m': () => always,
  '--comment': () => always,
  '-s': (value, family) => inRange('source', value, family),
  '-d': (value, family) => inRange('destination', value, family),
  '-i': (value) => linkTest('inLink', value, '+'),
  '-o': (value) => linkTest('outLink', value, '+'),
  '-f': () => never,
  '--ctstate': (value) => names('NEW', value),
  '--state': (value) => names('NEW', value),
  // No packet is translated or known yet.
  '--ctstatus': (value) => names('NONE', value),
  // `0x4000/0x4000`, `0x1`. Packets have the mark 0.
  '--mark': (value) => when(Number(value.split('/')[0]) === 0),
  '--src-type': (value) => names('UNICAST', value),
  '--dst-type': (value) => names('UNICAST', value),
  // Of rpfilter: routes lead back the way the packets came.
  '--invert': () => never,
  '--physdev-is-bridged': () => never,
};

function inRange(side: 'source' | 'destination', value: string, family: Family): Test {
  const range = rangeOf(value);
  return range === undefined ? unknown : addressTest(side, family, range);
}

/** Whether a comma-separated list has the word. */
function names(word: string, list: string): Test {
  return when(list.split(',').includes(word));
}

function targetOf(option: string, target: string, saved: SavedTable): Action {
  if (saved.has(target)) return { kind: option === '-g' ? 'goto' : 'jump', chain: target };
  return { kind: verdicts[target.toLowerCase()] ?? 'continue' };
}

/** Families whose chains see packets that this host forwards. */
const nftFamilies = new Set(['ip', 'ip6', 'inet', 'netdev']);
const nftHooks = new Set<unknown>(['ingress', 'prerouting', 'forward', 'postrouting', 'egress']);

/** Elements of a table's sets and maps, by name. */
type Sets = ReadonlyMap<string, readonly unknown[]>;

/** Reads the output of `nft -j list ruleset`. Throws UnreadableError. */
export function nftFilter(output: string): readonly FilterTable[] {
  const items = itemsOf(output);
  const sets = new Map<string, Map<string, readonly unknown[]>>();
  for (const item of items) {
    const set = asJson(item['set']) ?? asJson(item['map']);
    if (set === undefined) continue;
    const table = tableOf(set);
    const named = sets.get(table) ?? new Map<string, readonly unknown[]>();
    sets.set(table, named.set(asText(set['name']), asList(set['elem'])));
  }
  const tables = new Map<string, Map<string, { hook?: Hook; rules: FilterRule[] }>>();
  for (const item of items) {
    const chain = asJson(item['chain']);
    const rule = asJson(item['rule']);
    if (chain !== undefined && nftFamilies.has(asText(chain['family']))) {
      const chains = tables.get(tableOf(chain)) ?? new Map<string, FilterChain & { rules: FilterRule[] }>();
      tables.set(tableOf(chain), chains.set(asText(chain['name']), { rules: [], ...hookOf(chain) }));
    }
    if (rule !== undefined) {
      const rules = tables.get(tableOf(rule))?.get(asText(rule['chain']))?.rules;
      rules?.push(...readNftRule(rule, sets.get(tableOf(rule)) ?? new Map<string, readonly unknown[]>()));
    }
  }
  return [...tables].map(([name, chains]) => ({ program: 'nft', name, families: seenBy(name), chains }));
}

function seenBy(table: string): readonly Family[] {
  return table.startsWith('ip ') ? [4] : table.startsWith('ip6 ') ? [6] : [4, 6];
}

function tableOf({ family, table, name }: Json): string {
  return `${asText(family)} ${asText(table ?? name)}`;
}

function hookOf({ hook, policy, dev, family }: Json): { hook?: Hook } {
  if (!nftHooks.has(hook)) return {};
  const devices = [dev].flat().map(asText).filter(Boolean);
  const onDevice = family === 'netdev' || hook === 'ingress' || hook === 'egress';
  return {
    hook: {
      name: hook as Hook['name'],
      drops: policy === 'drop',
      ...(onDevice ? { devices: devices.length === 0 ? 'unknown' : devices } : {}),
    },
  };
}

/** One rule; for a verdict map one per verdict. */
function readNftRule(rule: Json, sets: Sets): readonly FilterRule[] {
  const text = `handle ${asText(rule['handle'])}`;
  const tests: Test[] = [];
  for (const statement of asList(rule['expr']).map((item) => asJson(item) ?? {})) {
    const action = actionOf(statement);
    if (action !== undefined) return [{ tests, action, text }];
    const vmap = asJson(statement['vmap']);
    if (vmap !== undefined) {
      return elementsOf(vmap['data'], sets).map((element) => {
        const [value, verdict] = asList(element);
        return {
          tests: [...tests, comparison(vmap['key'], value, sets)],
          action: actionOf(asJson(verdict) ?? {}) ?? { kind: 'continue' },
          text,
        };
      });
    }
    tests.push(testOf(statement, sets));
  }
  return [{ tests, action: { kind: 'continue' }, text }];
}

function actionOf(statement: Json): Action | undefined {
  for (const [name, value] of Object.entries(statement)) {
    const kind = verdicts[name];
    if (kind !== undefined) return { kind };
    if (name === 'jump' || name === 'goto') return { kind: name, chain: asText(asJson(value)?.['target']) };
    // Rules of iptables' on a host without iptables to print them.
    if (name === 'xt' && ['DROP', 'REJECT'].includes(asText(asJson(value)?.['name'])))
      return { kind: 'drop' };
  }
  return undefined;
}

/** Statements that let every packet continue. */
const effects = new Set([
  'counter',
  'log',
  'mangle',
  'notrack',
  'flow',
  'dup',
  'set',
  'secmark',
  'ct helper',
]);

function testOf(statement: Json, sets: Sets): Test {
  const match = asJson(statement['match']);
  if (match === undefined) {
    const isComment = asJson(statement['xt'])?.['name'] === 'comment';
    return isComment || Object.keys(statement).every((name) => effects.has(name)) ? always : unknown;
  }
  const { op, left, right } = match;
  const test = comparison(left, right, sets);
  if (op === '==' || op === 'in') return test;
  return op === '!=' ? allOf([ofItsFamily(left), not(test)]) : unknown;
}

/** A test of an address, negated or not, matches packets of its family only. */
function ofItsFamily(field: unknown): Test {
  const protocol = asJson(asJson(field)?.['payload'])?.['protocol'];
  return protocol === 'ip' ? familyTest(4) : protocol === 'ip6' ? familyTest(6) : always;
}

/** `left` is `right`, or one of its elements. */
function comparison(left: unknown, right: unknown, sets: Sets): Test {
  const field = asJson(left) ?? {};
  const set = asJson(right)?.['set'];
  if (Array.isArray(right) || set !== undefined || (typeof right === 'string' && right.startsWith('@')))
    return anyOf(elementsOf(right, sets).map((element) => comparison(left, element, sets)));
  const element = asJson(asJson(right)?.['elem']);
  if (element !== undefined) return comparison(left, element['val'], sets);
  const fields = asList(field['concat']);
  if (fields.length > 0) {
    const values = asList(asJson(right)?.['concat']);
    return allOf(fields.map((one, index) => comparison(one, values[index], sets)));
  }
  const payload = asJson(field['payload']);
  if (payload !== undefined) return payloadTest(payload, right);
  const { key } = asJson(field['meta']) ?? asJson(field['ct']) ?? {};
  if ('ct' in field) return ctTest(key, right);
  if ('fib' in field) return fibTest(asJson(field['fib']) ?? {}, right);
  const [masked] = asList(field['&']);
  const { key: maskedKey } = asJson(asJson(masked)?.['meta']) ?? asJson(asJson(masked)?.['ct']) ?? {};
  return metaTest(key ?? (maskedKey === 'mark' ? maskedKey : undefined), right);
}

function elementsOf(data: unknown, sets: Sets): readonly unknown[] {
  if (typeof data === 'string') return sets.get(data.slice(1)) ?? [];
  return Array.isArray(data) ? data : asList(asJson(data)?.['set']);
}

function payloadTest({ protocol, field }: Json, right: unknown): Test {
  const isIPv4 = protocol === 'ip' || protocol === 'icmp';
  const family = isIPv4 ? 4 : protocol === 'ip6' || protocol === 'icmpv6' ? 6 : undefined;
  if (family === undefined) return unknown;
  // A test of one family's header fails for the other's.
  const maybe = allOf([familyTest(family), unknown]);
  if (field !== 'saddr' && field !== 'daddr') return maybe;
  const side = field === 'saddr' ? 'source' : 'destination';
  const prefix = asJson(asJson(right)?.['prefix']);
  const [from, to] = asList(asJson(right)?.['range']).map((end) => rangeOf(asText(end)));
  const range = prefix
    ? rangeOf(`${asText(prefix['addr'])}/${asText(prefix['len'])}`)
    : rangeOf(asText(right));
  if (from !== undefined && to !== undefined)
    return addressTest(side, family, { first: from.first, last: to.last });
  if (range !== undefined) return addressTest(side, family, range);
  // firewalld writes IPv4 addresses as IPv6 ones; no container has any of these.
  return asText(prefix?.['addr']).startsWith('::ffff:') ? never : maybe;
}

function metaTest(key: unknown, right: unknown): Test {
  const value = asText(right);
  switch (key) {
    case 'iifname':
    case 'iif':
      return linkTest('inLink', value, '*');
    case 'oifname':
    case 'oif':
      return linkTest('outLink', value, '*');
    case 'nfproto':
    case 'protocol':
      return familyTest(value === 'ipv6' || value === 'ip6' ? 6 : 4);
    case 'mark':
      return when(Number(value) === 0);
    default:
      return unknown;
  }
}

/** Packets that begin a connection: nothing is translated or known of it yet. */
function ctTest(key: unknown, right: unknown): Test {
  const value = asText(right);
  if (key === 'state') return when(value === 'new');
  if (key === 'status') return never;
  if (key === 'direction') return when(value === 'original');
  return key === 'mark' ? metaTest(key, right) : unknown;
}

/** Routes lead back the way the packets came, and no container has an address of the host. */
function fibTest({ result }: Json, right: unknown): Test {
  if (typeof right === 'boolean') return when(right);
  return result === 'type' ? when(asText(right) === 'unicast') : unknown;
}
