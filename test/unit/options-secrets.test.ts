import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseOptions } from '../../src/daemon/options/options.ts';
import type { Env } from './options-run.ts';

const SECRET = 'hunter2';

/** Whatever is said about a command line: the warnings, the error, or the text of a command. */
async function said(argv: readonly string[], env: Env = {}): Promise<string> {
  try {
    const command = await parseOptions({ argv, env });
    return command.command === 'run' ? command.warnings.join('\n') : JSON.stringify(command);
  } catch (error) {
    return String(error);
  }
}

describe('a password is never repeated', () => {
  it.each<[readonly string[], Env, string]>([
    // In order, but visible to others.
    [['--etcd-username=root', `--etcd-password=${SECRET}`], {}, 'in the process list'],
    [['--etcd-username=root', '--etcd-password', SECRET], {}, 'in the process list'],
    [[`--etcd-password=${SECRET}`], {}, 'no --etcd-username'],
    // Misspelt.
    [[`--etcd-pasword=${SECRET}`], {}, 'unknown flag "--etcd-pasword": did you mean --etcd-password?'],
    [['--etcd-pasword', SECRET], {}, 'did you mean --etcd-password?'],
    [[`--etcd_password=${SECRET}`], {}, 'did you mean --etcd-password?'],
    [[`--password=${SECRET}`], {}, 'unknown flag "--password"'],
    [[`---etcd-password=${SECRET}`], {}, '"---etcd-password=…" is not a flag'],
    [[`-=${SECRET}`], {}, '"-=…" is not a flag'],
    [[`--etcd-password${SECRET}`], {}, 'unknown flag "--etcd-password…"'],
    [[`--etcd-password:${SECRET}`], {}, 'unknown flag "--etcd-password…"'],
    // Pushed out of its place by a blank, an empty variable or a forgotten value.
    [['--etcd-password=', SECRET], {}, 'the daemon takes flags only, not (not shown)'],
    [['--etcd-password', '=', SECRET], {}, 'takes flags only, not (not shown)'],
    [['--etcd-password=one', SECRET, '-v=1'], {}, 'takes flags only, not (not shown) "-v=…"'],
    [['--ip-masq', 'x', `--etcd-password=${SECRET}`], {}, '(not shown) "--etcd-password=…"'],
    [['--ip-masq', 'x', '--etcd-password', SECRET], {}, '(not shown) "--etcd-password" (not shown)'],
    [['--ip-masq', 'true', `--etcd-password=${SECRET}`], {}, 'Nothing after "true" would be read.'],
    [['--etcd-password', '--etcd-username', SECRET], {}, '"--etcd-username" is a flag of its own'],
    [[SECRET, '--etcd-password='], {}, 'unknown command (not shown)'],
    [['lease', SECRET, '--etcd-password='], {}, 'unknown command (not shown)'],
    [['lease', 'release', '--etcd-password=', SECRET, 'x'], {}, 'one SUBNET, not (not shown) (not shown)'],
    [['help', SECRET, '--etcd-password'], {}, 'unknown flag "--etcd-password"'],
    [
      ['--iface', `--etcd-password=${SECRET}`],
      {},
      '--iface needs a value: --iface=…, and "--etcd-password=…" is',
    ],
    [['-v', `-etcd-password=${SECRET}`], {}, '-v needs a value'],
    [['--etcd-username=root', SECRET], {}, 'takes flags only, not (not shown)'],
    [['-v=1', 'start', `password=${SECRET}`], {}, '(not shown)'],
    [['health', '--healthz-port=1', `--etcd-password=${SECRET}`], {}, 'unknown flag "--etcd-password"'],
    [
      ['health', '--healthz-port=1', '--', `--etcd-password=${SECRET}`],
      {},
      'nothing after "--" would be read: "--etcd-password=…"',
    ],
    [['-v=1', 'start', `--etcd-endpoints=http://root:${SECRET}@a:1`], {}, '"--etcd-endpoints=…"'],
    [['-v=1', 'start', `http://root:${SECRET}@a:1`], {}, '(not shown) (not shown)'],
    [['-v', `--etcd-endpoints=http://root:${SECRET}@a:1`], {}, '"--etcd-endpoints=…" is a flag of its own'],
    [['-v', `http://root:${SECRET}@a:1`], {}, '-v is (not shown): it must be'],
    // With other mistakes beside it.
    [['--etcd-username=root', `--etcd-password=${SECRET}`, '--etcd-password-file=/x'], {}, 'both give'],
    [['--etcd-username=root', `--etcd-password=${SECRET}`, '-v=x'], {}, '-v is "x"'],
    [[`--etcd-endpoints=http://root:${SECRET}@a:1`], {}, '(not shown)'],
    // In the environment.
    [[], { FLANNELD_ETCD_PASSWORD: SECRET }, 'no --etcd-username'],
    [[], { FLANNELD_ETCD_PASWORD: SECRET }, 'FLANNELD_ETCD_PASWORD"; did you mean FLANNELD_ETCD_PASSWORD?'],
    [[], { FLANNELD_PASSWORD: SECRET }, 'the variable "FLANNELD_PASSWORD"'],
    [[], { FLANNELD_ETCD_ENDPOINTS: `root:${SECRET}@a:1` }, 'FLANNELD_ETCD_ENDPOINTS is (not shown)'],
  ])('%j %j', async (argv, env, message) => {
    const text = await said(argv, env);
    expect(text).not.toContain(SECRET);
    expect(text).toContain(message);
  });

  it('wherever it stands beside the flag of its name, and whatever else there is', async () => {
    const other = fc.constantFrom(
      'start',
      '--',
      '',
      '-v=1',
      '--ip-masq',
      '-v',
      '--iface',
      '=',
      '-x',
      '--version=F',
    );
    const given = fc.constantFrom(
      [`--etcd-password=${SECRET}`],
      ['-etcd-password', SECRET],
      ['--etcd-password=', SECRET],
      ['--etcd-password', '', SECRET],
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(other, { maxLength: 4 }),
        given,
        fc.array(other),
        async (before, words, after) => {
          expect(await said([...before, ...words, ...after])).not.toContain(SECRET);
        },
      ),
      { numRuns: 300 },
    );
  });
});

it('other stray words are shown as they are', async () => {
  expect(await said(['-v=1', 'start', '-etcd-prefix=/x'])).toContain('not "start" "-etcd-prefix=/x"');
});
