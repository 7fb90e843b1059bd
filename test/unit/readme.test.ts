import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { flagsMarkdown } from '../../src/daemon/options/flags.ts';
import { metricsMarkdown } from '../../src/daemon/report/metrics.ts';

const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');

/** README's lines from the first line of the table on, as many as it has. */
function inReadme(table: string): readonly string[] {
  const lines = readme.split('\n');
  const start = lines.indexOf(table.split('\n', 1)[0] ?? '');
  return lines.slice(start, start + table.trimEnd().split('\n').length);
}

it.each([
  ['flags', flagsMarkdown()],
  ['metrics', metricsMarkdown()],
])("README's table of %s is the program's own", (_, table) => {
  expect(inReadme(table)).toEqual(table.trimEnd().split('\n'));
});

it('README says that IPv6 must not be turned on while there is a flanneld without it', () => {
  const [, coming = ''] = readme.split('## Coming from flanneld');
  expect(coming.replaceAll(/\s+/g, ' ')).toMatch(
    /Leave `EnableIPv6` as it is until no flanneld is left.*crashes/,
  );
});

describe("README's troubleshooting quotes the log as it is", () => {
  const source = join(import.meta.dirname, '../../src');
  const code = readdirSync(source, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => readFileSync(join(source, name), 'utf8'))
    .join('\n');
  const [, section = ''] = readme.split('## Troubleshooting');
  // The first column's code spans; an ellipsis stands for what differs each time.
  const quoted = [...section.matchAll(/^\| `([^`]+)` \|/gm)].map(([, text = '']) => text);

  it('quotes something', () => {
    expect(quoted.length).toBeGreaterThan(5);
  });

  it.each(quoted)('%s', (text) => {
    for (const part of text.split(/…|: /).map((piece) => piece.trim())) expect(code).toContain(part);
  });
});
