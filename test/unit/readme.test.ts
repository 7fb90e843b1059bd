import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { flagsMarkdown } from '../../src/daemon/options/help.ts';

const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');

it("README's table of flags is the program's own", () => {
  expect(readme).toContain(flagsMarkdown().trimEnd());
});
