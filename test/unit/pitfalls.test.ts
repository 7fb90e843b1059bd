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

/** What stands before a title: `it(`, `describe.each(…)(`; before a case's name: it opens a row of a table, or is its `verb`. */
const BEFORE_TITLE = /(?:\b(?:it|test|describe)(?:\.\w+)*|[)`])\(\s*$/;
const BEFORE_CASE = /(?:\[|\bverb:)\s*$/;
const NOT_RUN = /\b(?:it|test|describe)(?:\.\w+)*\.(?:skip|skipIf|runIf|todo|fails|only)\b/;

/** Whether the file has a test, or a case of one, whose title is written so: a whole literal, in whatever quotes. */
function hasTitle(source: string, name: string): boolean {
  const plain = source.replaceAll("\\'", "'");
  return ["'", '"', '`'].some((quote) =>
    plain
      .split(quote + name + quote)
      .slice(0, -1)
      .some((before) => BEFORE_TITLE.test(before) || BEFORE_CASE.test(before)),
  );
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
      // Which of its tests would not run is not looked at: none may.
      expect(source, file).not.toMatch(NOT_RUN);
    }
  });

  it.each([
    ["it('a name', () => {", 'a name', true],
    ["it('it\\'s a name', () => {", "it's a name", true],
    ["it('a name and more', () => {", 'a name', false],
    ["it.each([\n  [1],\n])(\n  'a name',\n", 'a name', true],
    ["describe.each`a`('a name', () => {", 'a name', true],
    ["it.each([\n  [\n    'a name', 1],\n])('%s',\n", 'a name', true],
    ["describeOutage({\n  verb: 'a name',", 'a name', true],
    ['// a name', 'a name', false],
    ["const text = 'a name';", 'a name', false],
    ["expect(text).toContain('a name')", 'a name', false],
    ["expect(text).toBe(list[1], 'a name')", 'a name', false],
  ])('finds whole titles only: %s', (source, name, expected) => {
    expect(hasTitle(source, name)).toBe(expected);
  });

  it.each(['it.skip(', 'describe.skip.each([', 'test.concurrent.skipIf(', 'it.todo(', 'it.fails('])(
    'takes %s for a test that does not run',
    (head) => {
      expect(head).toMatch(NOT_RUN);
    },
  );
});
