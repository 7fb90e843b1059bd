import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { counted, excerpt, joined, plural } from '../../src/runtime/texts.ts';

it('puts no stop beside the separator, nor takes one of several', () => {
  expect(joined(['One.', 'e.g. two', 'and so on...', 'Four.'], '; ')).toBe(
    'One; e.g. two; and so on...; Four.',
  );
  expect(joined([], '. ')).toBe('');
});

test.each([
  [0, '0 leases'],
  [1, '1 lease'],
  [2, '2 leases'],
])('%i is counted as %s', (count, text) => {
  expect(counted(count, 'lease')).toBe(text);
});

test('a word of its own for many, and a word alone', () => {
  expect(counted(1, 'key is', 'keys are')).toBe('1 key is');
  expect(counted(3, 'key is', 'keys are')).toBe('3 keys are');
  expect(plural(1, 'does', 'do')).toBe('does');
  expect(plural(0, 'does', 'do')).toBe('do');
});

describe('excerpt', () => {
  it('writes what cannot be seen as escapes, and leaves the rest', () => {
    expect(excerpt('10.5.1.0-24&fc00::-64 ü 漢 😀')).toBe('10.5.1.0-24&fc00::-64 ü 漢 😀');
    expect(excerpt('a\nb\u001b[31m\u0000\u007f\u009b')).toBe('a\\u000ab\\u001b[31m\\u0000\\u007f\\u009b');
    expect(excerpt('\u202e\u200b\u2028\ufeff')).toBe('\\u202e\\u200b\\u2028\\ufeff');
  });

  it('writes blanks and dashes that only look like those of ASCII as escapes', () => {
    expect(excerpt('10.5.0.0\u00a0/16 fd\u2013\u2212-\u3000x')).toBe(
      '10.5.0.0\\u00a0/16 fd\\u2013\\u2212-\\u3000x',
    );
  });

  it('cuts long text, also inside a surrogate pair', () => {
    expect(excerpt('abcdef', 6)).toBe('abcdef');
    expect(excerpt('abcdefg', 6)).toBe('abcdef…');
    expect(excerpt('ab😀', 3)).toBe('ab\\ud83d…');
  });

  it('is one printable line for any text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.nat(50), (text, max) => {
        expect(excerpt(text, max)).not.toMatch(/(?![ -])[\p{C}\p{Z}\p{Pd}]/u);
      }),
    );
  }, 30_000);
});
