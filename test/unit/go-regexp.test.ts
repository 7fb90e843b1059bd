import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { compileGoRegexp, GoRegexpError, loadGoRegexp } from '../../src/daemon/interface/go-regexp.ts';
import { cpuMs } from '../testbed/cpu-time.ts';

beforeAll(loadGoRegexp);

/** Pattern, texts it matches, texts it does not: all tried with Go 1.26's regexp.MatchString. */
const means: readonly (readonly [pattern: string, yes: readonly string[], no: readonly string[]])[] = [
  ['eth', ['eth0', 'veth1'], ['ens3']],
  ['', ['', 'eth0'], []],
  ['^eth\\d+$', ['eth0', 'eth10'], ['veth0', 'eth0.1', 'eth0\n']],
  ['\\Aen(s|p)[[:digit:]]+\\z', ['ens3', 'enp0'], ['en3', 'ens3\n']],
  ['10\\.(1|2)\\.', ['10.1.0.5', '110.2.3.4'], ['10.3.0.5', '10x1.']],
  ['(?i)ETH', ['eth0', 'Eth'], ['en']],
  ['(?i)e(?-i)th', ['Eth'], ['eTH']],
  ['(?U)a+', ['aa'], ['']],
  ['(?P<card>e)(?<port>\\d)', ['e1'], ['e']],
  ['\\Q10.1.\\E', ['10.1.0.5'], ['10x1.']],
  ['[]a]', [']', 'a'], ['b']],
  ['\\pL\\p{Nd}', ['é1'], ['1é']],
  ['\\D', ['٣'], ['3']],
  ['^a{,2}$', ['a{,2}'], ['aa']],
  ['(a*)*b', ['aab', 'b'], ['aac']],
];

describe('a pattern means what it means in Go', () => {
  it.each(means)('%s', (pattern, yes, no) => {
    const regexp = compileGoRegexp(pattern);
    const matched = [...yes, ...no].filter((text) => regexp.matches(text));
    expect(matched).toEqual(yes);
  });
});

describe('a pattern that Go refuses is refused by name', () => {
  it.each([
    ['(eth', 'missing closing ): (eth'],
    ['eth[0', 'missing closing ]: [0'],
    ['*', 'missing argument to repetition operator: *'],
    ['a{1001}', 'invalid repeat count: {1001}'],
    ['(?=a)', 'invalid or unsupported Perl syntax (Go has no lookahead or lookbehind): (?='],
    ['(?<=a)', 'invalid named capture (Go has no lookahead or lookbehind): (?<=a)'],
    ['(a)\\1', 'invalid escape sequence (Go has no backreferences): \\1'],
    ['(?<n>a)\\k<n>', 'invalid escape sequence (Go has no backreferences): \\k'],
    ['a\\Z', 'invalid escape sequence (use \\z for the end of the text): \\Z'],
    ['\\u0041', 'invalid escape sequence (use \\x{…}): \\u'],
    [`${'('.repeat(1_100)}a${')'.repeat(1_100)}`, `expression nests too deeply: ${'('.repeat(40)}…`],
  ])('%s', (pattern, message) => {
    expect(refusal(pattern)).toBe(message);
  });
});

/** The message of the error a pattern is refused with; undefined when it is not. Throws every other error. */
function refusal(pattern: string): string | undefined {
  try {
    compileGoRegexp(pattern);
    return undefined;
  } catch (error) {
    if (error instanceof GoRegexpError) return error.message;
    throw error;
  }
}

it('patterns that a backtracking engine never comes to an end with take no time', () => {
  const address = '2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff';
  const startMs = cpuMs();
  for (const pattern of [
    '([0-9a-f:]+)+x$',
    '((a*)*)*$x',
    '(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)y',
    '(a?){30}a{30}z',
  ]) {
    expect(compileGoRegexp(pattern).matches(address + 'a'.repeat(30))).toBe(false);
  }
  expect(cpuMs() - startMs).toBeLessThan(5_000);
});

it('where the two dialects agree, JavaScript says the same', () => {
  const atoms = ['a', 'b', '.', '[ab]', '[^a]', '\\d', '^', '$', '\\b', '(a|b)', '(?:ab)', '1', '|'];
  const piece = fc.tuple(fc.constantFrom(...atoms), fc.constantFrom('', '', '*', '+', '?', '{0,2}', '*?'));
  const pattern = fc
    .array(piece, { maxLength: 6 })
    .map((pieces) =>
      pieces.map(([atom, count]) => (/^([|^$]|\\b)$/.test(atom) ? atom : atom + count)).join(''),
    );
  const text = fc.string({ unit: fc.constantFrom('a', 'b', '1', '-'), maxLength: 6 });
  fc.assert(
    fc.property(pattern, text, (source, input) => {
      expect(compileGoRegexp(source).matches(input)).toBe(new RegExp(source, 'u').test(input));
    }),
  );
});

it('any text is a pattern or is refused; nothing else is thrown', () => {
  const unit = fc.constantFrom(...'ab()[]{}?*+|^$\\.:-,0129<>=!PpQEdsxiz'.split(''));
  fc.assert(
    fc.property(fc.string({ unit, maxLength: 12 }), (source) => {
      if (refusal(source) === undefined) compileGoRegexp(source).matches('eth0');
    }),
    { numRuns: 1_000 },
  );
});
