import { expect, test } from 'vitest';
import { counted, plural } from '../../src/runtime/texts.ts';

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
