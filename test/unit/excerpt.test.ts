import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { excerpt } from '../../src/runtime/texts.ts';

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
