import { expect, it } from 'vitest';
import { joined } from '../../src/runtime/texts.ts';

it('puts no stop beside the separator, nor takes one of several', () => {
  expect(joined(['One.', 'e.g. two', 'and so on...', 'Four.'], '; ')).toBe(
    'One; e.g. two; and so on...; Four.',
  );
  expect(joined([], '. ')).toBe('');
});
