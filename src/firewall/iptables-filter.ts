import type { Family } from '../ip/ip.ts';
import type { SavedTable } from './iptables-save.ts';
import {
  type Action,
  addressTest,
  always,
  type FilterChain,
  type FilterRule,
  type FilterTable,
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

const hooks: Readonly<Record<string, Hook['name']>> = {
  PREROUTING: 'prerouting',
  FORWARD: 'forward',
  POSTROUTING: 'postrouting',
};

/** Targets that end a packet's way through the table; all others but chains let it go on. */
const verdicts: Readonly<Record<string, Verdict>> = {
  DROP: 'drop',
  REJECT: 'drop',
  RETURN: 'return',
  ACCEPT: 'accept',
  // A program decides about what is queued.
  NFQUEUE: 'accept',
  QUEUE: 'accept',
  // What is translated goes on.
  MASQUERADE: 'accept',
  SNAT: 'accept',
  DNAT: 'accept',
  REDIRECT: 'accept',
  NETMAP: 'accept',
};

/** A table that iptables keeps, as its rules judge packets. */
export function iptablesFilter(
  program: FilterTable['program'],
  name: string,
  saved: SavedTable,
  family: Family,
): FilterTable {
  const chains = new Map<string, FilterChain>();
  for (const [chain, { policy, rules }] of saved) {
    const hook = policy === undefined ? undefined : hooks[chain];
    chains.set(chain, {
      rules: rules.map(({ words, text }) => ({ ...readRule(words, saved, family), text })),
      ...(hook === undefined ? {} : { hook: { name: hook, drops: policy === 'DROP' } }),
    });
  }
  return { program, name, families: [family], chains };
}

function readRule(words: readonly string[], saved: SavedTable, family: Family): Omit<FilterRule, 'text'> {
  const tests: Test[] = [];
  let negated = false;
  for (const [index, word] of words.entries()) {
    const value = words[index + 1] ?? '';
    if (word === '-j' || word === '-g') return { tests, action: actionOf(word, value, saved) };
    if (word === '!') {
      negated = true;
      continue;
    }
    // A value of the option before.
    if (!word.startsWith('-')) continue;
    const test = options[word]?.(value, family) ?? unknown;
    tests.push(negated ? not(test) : test);
    negated = false;
  }
  return { tests, action: { kind: 'continue' } };
}

/** Names of matches test nothing themselves; an option that is not known here may test for anything. */
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
  // Nothing is translated or known yet.
  '--ctstatus': (value) => names('NONE', value),
  // `0x4000/0x4000`, `0x1`; packets have the mark 0.
  '--mark': (value) => when(Number(value.split('/')[0]) === 0),
  '--src-type': (value) => names('UNICAST', value),
  '--dst-type': (value) => names('UNICAST', value),
  // Of rpfilter: routes lead back the way that packets came.
  '--invert': () => never,
  '--physdev-is-bridged': () => never,
};

function inRange(side: 'source' | 'destination', value: string, family: Family): Test {
  const range = rangeOf(value);
  return range === undefined ? unknown : addressTest(side, family, range);
}

/** Whether a list with commas has the word. */
function names(word: string, list: string): Test {
  return when(list.split(',').includes(word));
}

function actionOf(option: string, target: string, saved: SavedTable): Action {
  const kind = verdicts[target];
  if (kind !== undefined) return { kind };
  if (!saved.has(target)) return { kind: 'continue' };
  return { kind: option === '-g' ? 'goto' : 'jump', chain: target };
}
