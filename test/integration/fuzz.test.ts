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
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
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
  for (const folder of ['test/unit', 'test/integration', 'test/testbed', 'sim'])
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

beforeEach(() => simulates(''));

afterAll(() => rmSync(project, { recursive: true }));

/** The project's simulation notes what it is asked for, and does `then`. */
function simulates(then: string): void {
  const note = `import { appendFileSync } from 'node:fs';
appendFileSync('asked', process.argv.slice(2).join(' ') + '\\n');`;
  writeFileSync(join(project, 'sim/run.ts'), `${note}\n${then}\n`);
  rmSync(join(project, 'asked'), { force: true });
}

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

  it('is what takes them: without it a test has the same values on every run', async () => {
    const seedOf = async () => {
      const { output } = await shell(`npx vitest run ${file}`);
      return /seed: (-?\d+)/.exec(output)?.[1];
    };
    expect([await seedOf(), await seedOf()]).toEqual(['1', '1']);
  });

  it('runs the property tests of every folder, and not one that only writes some', async () => {
    writeFileSync(
      join(project, 'test/integration/writes.test.ts'),
      `const text = \`import fc from 'fast-check';\nfc.assert(fc.property());\`;\nthrow new Error(text);\n`,
    );
    const { output } = await shell(command('--minutes 0.001'));
    expect(output).toMatch(/ 3 files of property tests on 1 seeds each, 200 simulated clusters, 4 failed$/m);
  });

  it('simulates clusters on fresh seeds, and prints of those that fail what shows each again', async () => {
    simulates("console.log('seed 7: it is so\\n  and so\\nseed 12: it is not'); process.exitCode = 1;");
    const { code, output } = await shell(command('--minutes 0.001'));
    expect(code, output).toBe(1);
    expect(output).toContain('FAILED  npm run sim -- --seed 7\nit is so\n');
    expect(output).toContain('FAILED  npm run sim -- --seed 12\nit is not\n');
    expect(output).toMatch(/, 200 simulated clusters, 6 failed\n(.*\n)* {2}npm run sim -- --seed 12$/m);
    await shell(command('--minutes 0.001'));
    const asked = readFileSync(join(project, 'asked'), 'utf8').trim().split('\n');
    expect(asked).toEqual([
      expect.stringMatching(/^--seeds 200 --from \d+$/),
      expect.stringMatching(/^--seeds 200 --from \d+$/),
    ]);
    expect(asked[0]).not.toBe(asked[1]);
  });

  it('shows what a simulation said that ended in another way', async () => {
    simulates("console.error('no memory'); process.exitCode = 9;");
    const { code, output } = await shell(command('--minutes 0.001'));
    expect(code, output).toBe(1);
    expect(output).toMatch(
      /FAILED {2}npm run sim -- --seeds 200 --from \d+\nit ended with exit code 9\nno memory/,
    );
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
