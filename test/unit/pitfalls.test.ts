import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '../..');
const text = readFileSync(join(root, 'test/pitfalls.md'), 'utf8');

/** How many lines there are of each kind. */
const counts = { L: 12, W: 9, R: 8, F: 12, E: 9 } as const;
const wanted = Object.entries(counts).flatMap(([kind, count]) =>
  Array.from({ length: count }, (_, i) => `${kind}${i + 1}`),
);

interface Line {
  readonly id: string;
  readonly tests: readonly { readonly file: string; readonly name: string }[];
}

const lines = [...text.matchAll(/^\| ([A-Z]\d+) \| .+? \| (.*) \|$/gm)].map(
  ([, id = '', cell = '']): Line => ({
    id,
    tests: [...cell.matchAll(/`(test\/[^`]+)`: “(.*?)”(?:<br>|$)/g)].map(([, file = '', name = '']) => ({
      file,
      name,
    })),
  }),
);

/** Whether the file has a test, or a case of one, whose title is written so: a whole literal, in whatever quotes. */
function hasTitle(source: string, name: string): boolean {
  const plain = source.replaceAll("\\'", "'");
  return ["'", '"', '`'].some((quote) => plain.includes(quote + name + quote));
}

describe('the list of pitfalls', () => {
  it('has each line once', () => {
    expect(lines.map(({ id }) => id)).toEqual(wanted);
  });

  it.each(lines)('names tests for $id that exist', ({ tests }) => {
    expect(tests.length).toBeGreaterThan(0);
    for (const { file, name } of tests) {
      expect(existsSync(join(root, file)), file).toBe(true);
      const source = readFileSync(join(root, file), 'utf8');
      expect(hasTitle(source, name), `${file}: ${name}`).toBe(true);
      expect(source).toMatch(/\b(it|test|describe)\w*(\.\w+)*\(/);
    }
  });

  it.each([
    ["it('a name', () => {", 'a name', true],
    ["it('it\\'s a name', () => {", "it's a name", true],
    ["it('a name and more', () => {", 'a name', false],
    ['// a name', 'a name', false],
  ])('finds whole titles only: %s', (source, name, expected) => {
    expect(hasTitle(source, name)).toBe(expected);
  });
});
