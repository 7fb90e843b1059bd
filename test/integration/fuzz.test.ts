import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../testbed/commands.ts';
import { RunningProcess } from '../testbed/process.ts';
import { RUN_VARIABLE, tempDir } from '../testbed/run.ts';

const root = join(import.meta.dirname, '../..');
/** A project with this one's configuration, and with properties that do not hold. */
const project = tempDir('fuzz');
const file = 'test/unit/numbers.test.ts';
const onRealParts = 'test/integration/numbers.test.ts';
const command = (argv: string) => `node "$FUZZ" ${argv}`;

beforeAll(() => {
  for (const folder of ['test/unit', 'test/integration', 'test/testbed'])
    mkdirSync(join(project, folder), { recursive: true });
  for (const name of ['vitest.config.ts', 'package.json', 'test/testbed/property-seed.ts'])
    copyFileSync(join(root, name), join(project, name));
  symlinkSync(join(root, 'node_modules'), join(project, 'node_modules'));
  const falseProperties = `import fc from 'fast-check';
import { describe, it } from 'vitest';

describe("1 + 1 (it's $2)", () => {
  it('is less than 90,000 [sometimes]', () => {
    fc.assert(fc.property(fc.nat(100_000), (n) => n < 90_000), { numRuns: 1_000 });
  });
  it('is less than 90,000 [sometimes], it says here', () => {
    fc.assert(fc.property(fc.nat(100_000), (n) => n < 90_000), { numRuns: 1_000 });
  });
});
`;
  for (const each of [file, onRealParts]) writeFileSync(join(project, each), falseProperties);
  writeFileSync(
    join(project, 'test/unit/holds.test.ts'),
    `import fc from 'fast-check';
import { it } from 'vitest';

it('holds', () => {
  fc.assert(fc.property(fc.nat(100_000), (n) => n >= 0));
});
`,
  );
});

afterAll(() => rmSync(project, { recursive: true }));

/** What somebody sees who pastes this into a shell in the project's folder. */
async function shell(line: string): Promise<{ readonly code: number | null; readonly output: string }> {
  // Not as a part of the run that this test is in.
  const { VITEST: _, PROPERTY_SEED: __, PROPERTY_PATH: ___, ...env } = process.env;
  const running = new RunningProcess(['sh', '-c', line], {
    cwd: project,
    env: { ...env, NO_COLOR: '1', FUZZ: join(root, 'script/fuzz.ts') },
  });
  const { code } = await running.exit;
  return { code, output: running.lines.join('\n') };
}

describe('npm run fuzz', () => {
  it.each([file, onRealParts])('prints of a failure in %s what shows that one again', async (path) => {
    const fuzz = await shell(command(`--minutes 0.001 ${path}`));
    expect(fuzz.code, fuzz.output).toBe(1);
    expect(fuzz.output).toMatch(
      / 1 files of property tests on 1 seeds each, 0 simulated clusters, 2 failed$/m,
    );
    const lines = fuzz.output.split('\n').filter((line) => line.startsWith('FAILED  '));
    expect(lines).toHaveLength(2);
    for (const line of lines) {
      const again = await shell(line.replace('FAILED  ', ''));
      expect(again.code, again.output).toBe(1);
      // That test alone, and at once.
      expect(again.output).toMatch(/Tests +1 failed \| 1 skipped \(2\)/);
      expect(again.output).toMatch(/Property failed after 1 tests/);
      expect(again.output).toContain('Counterexample: [90000]');
    }
  });

  it('takes other seeds in another run', async () => {
    const seedOf = async () => {
      const { output } = await shell(command(`--minutes 0.001 ${file}`));
      return /^FAILED {2}PROPERTY_SEED=(-?\d+) /m.exec(output)?.[1];
    };
    const [one, another] = [await seedOf(), await seedOf()];
    expect(one).toBeDefined();
    expect(another).toBeDefined();
    expect(another).not.toBe(one);
  });

  it('runs the property tests of every folder, and not one that only writes some', async () => {
    writeFileSync(
      join(project, 'test/integration/writes.test.ts'),
      `const text = \`import fc from 'fast-check';\nfc.assert(fc.property());\`;\nthrow new Error(text);\n`,
    );
    const { output } = await shell(command('--minutes 0.001'));
    expect(output).toMatch(/ 3 files of property tests on 1 seeds each, 0 simulated clusters, 4 failed$/m);
  });

  it('ends with 0 when all holds', async () => {
    const { code, output } = await shell(command('--minutes 0.001 test/unit/holds.test.ts'));
    expect(code, output).toBe(0);
    expect(output).toMatch(/, 0 failed$/m);
  });

  it('removes what the test has made in which it is interrupted', async () => {
    const path = 'test/integration/waits.test.ts';
    writeFileSync(
      join(project, path),
      `import fc from 'fast-check';
import { mkdirSync, writeFileSync } from 'node:fs';
import { it } from 'vitest';

it('waits', async () => {
  mkdirSync('/tmp/' + process.env.${RUN_VARIABLE} + '-waits');
  writeFileSync('waits', process.env.${RUN_VARIABLE});
  await fc.assert(fc.asyncProperty(fc.nat(), () => new Promise(() => {})));
});
`,
    );
    const env = { ...process.env, NO_COLOR: '1', [RUN_VARIABLE]: '' };
    const fuzz = new RunningProcess(
      [process.execPath, join(root, 'script/fuzz.ts'), '--minutes', '5', path],
      { cwd: project, env },
    );
    await until(() => existsSync(join(project, 'waits')), 60_000, 'the test does not begin');
    const left = `/tmp/${readFileSync(join(project, 'waits'), 'utf8')}-waits`;
    expect(existsSync(left)).toBe(true);
    fuzz.signal('SIGINT');
    expect(await fuzz.exit).toMatchObject({ code: 130 });
    expect(existsSync(left)).toBe(false);
    rmSync(join(project, path));
  });

  it.each([
    ['', '--minutes takes a number above 0'],
    ['--minutes 1 test/unit/none.test.ts', 'no property test in test/unit/none.test.ts'],
    ['--minute 1', "Unknown option '--minute'"],
  ])('with "%s" says what it takes', async (argv, said) => {
    const { code, output } = await shell(command(argv));
    expect(code).toBe(2);
    expect(output).toContain(`fuzz: ${said}`);
  });
});
