import { describe, expect, it } from 'vitest';
import { namedCommands } from '../../src/daemon/options/command-table.ts';
import { flagName, GROUPS } from '../../src/daemon/options/flag.ts';
import { flagsMarkdown } from '../../src/daemon/options/help.ts';
import { parseOptions } from '../../src/daemon/options/options.ts';
import { flagTable } from '../../src/daemon/options/table.ts';
import { run } from './options-run.ts';

describe('help and version', () => {
  it.each([[['--help']], [['-help']], [['-h']], [['-v=wrong', '--help', '--version']]])(
    '%j prints help',
    async (argv) => {
      expect((await parseOptions({ argv, env: {} })).command).toBe('help');
    },
  );

  it('shows every flag and default within 80 columns', async () => {
    const help = await parseOptions({ argv: ['--help'], env: { FLANNELD_V: 'wrong', COLUMNS: '40' } });
    if (help.command !== 'help') throw new Error('no help');
    const words = help.text.replaceAll(/\s+/g, ' ');
    for (const flag of flagTable) {
      expect(help.text).toContain(`  ${flagName(flag)}`);
      expect(words).toContain(flag.describe);
      if (flag.fallback !== undefined) expect(words).toContain(`(default: ${flag.fallback})`);
    }
    expect(help.text.split('\n').filter((line) => line.length > 80)).toEqual([]);
  });

  it('has the flags in groups, each below its heading', async () => {
    const help = await parseOptions({ argv: ['--help'], env: {} });
    if (help.command !== 'help') throw new Error('no help');
    const lines = help.text.split('\n');
    const headings = lines.flatMap((line) => /^(\w.*):$/.exec(line)?.[1] ?? []);
    expect(headings.filter((heading) => GROUPS.some((group) => group === heading))).toEqual(
      GROUPS.filter((group) => group !== 'Options'),
    );
    const below = new Map<string, string>();
    let heading = '';
    for (const line of lines) {
      heading = /^(\w.*):$/.exec(line)?.[1] ?? heading;
      const name = /^ {2}--?([\w-]+)/.exec(line)?.[1];
      if (name !== undefined) below.set(name, heading);
    }
    expect(below).toEqual(new Map(flagTable.map(({ name, group }) => [name, group])));
  });

  it('is short for a command: its own flags and no others', async () => {
    for (const argv of [
      ['health', '--help'],
      ['health', '-h'],
    ]) {
      const help = await parseOptions({ argv, env: {} });
      if (help.command !== 'help') throw new Error('no help');
      expect(help.text).toContain('Usage: flanneld-ts health [--healthz-ip=IP] --healthz-port=PORT\n');
      expect(help.text.match(/(?<=^ {2})--[a-z-]+/gm)).toEqual(['--healthz-ip', '--healthz-port', '--help']);
      expect(help.text).not.toContain('default');
      expect(help.text.split('\n').filter((line) => line.length > 80)).toEqual([]);
    }
  });

  it('names the commands and the way they are asked for', async () => {
    const help = await parseOptions({ argv: ['--help'], env: {} });
    if (help.command !== 'help') throw new Error('no help');
    for (const { words, usage, describe: purpose } of namedCommands) {
      expect(help.text).toContain(`flanneld-ts ${words.join(' ')} ${usage}`.trimEnd());
      expect(help.text.replaceAll(/\s+/g, ' ')).toContain(purpose.replaceAll(/\s+/g, ' '));
    }
  });

  it.each([
    ['status', ['--json', '--watch', '--status-socket', '--subnet-file']],
    ['health', ['--healthz-ip', '--healthz-port']],
    ['cleanup', ['--routes', '--force', '--dry-run', '--subnet-file']],
    ['lease release', ['--force', '--dry-run', '--status-socket', '--subnet-file']],
  ])("has the options of %s below a heading of their own, in the command's words", async (name, own) => {
    const help = await parseOptions({ argv: [...name.split(' '), '--help'], env: {} });
    if (help.command !== 'help') throw new Error('no help');
    const [, options = ''] = /^Options:\n((?: .*\n)*)/m.exec(help.text) ?? [];
    expect(options.match(/(?<=^ {2})--[a-z-]+/gm)).toEqual(own);
    expect(options).not.toMatch(/0\.0\.0\.0\) .*served|switches them off|is answered|are written to/);
  });

  it('is the same by the word help', async () => {
    const text = async (...argv: string[]) => await parseOptions({ argv, env: {} });
    expect(await text('help')).toEqual(await text('--help'));
    for (const { words } of namedCommands)
      expect(await text('help', ...words)).toEqual(await text(...words, '--help'));
    expect(await text('help', 'lease')).toEqual(await text('help', 'lease', 'release'));
    expect(await text('help')).toMatchObject({ command: 'help' });
  });

  it('prints the version', async () => {
    for (const argv of [['version'], ['--version'], ['-version=T', '-v=wrong']]) {
      expect(await parseOptions({ argv, env: {} })).toMatchObject({
        command: 'version',
        text: expect.stringMatching(/^flanneld-ts \S+$/),
      });
    }
    expect((await parseOptions({ argv: ['--version=false'], env: {} })).command).toBe('run');
  });

  it('does not come from the environment', async () => {
    const { warnings } = await run([], { FLANNELD_HELP: 'true', FLANNELD_VERSION: 'true' });
    expect(warnings).toHaveLength(2);
  });

  it('makes a Markdown table with one row for each flag', () => {
    const rows = flagsMarkdown().trimEnd().split('\n').slice(2);
    expect(rows).toHaveLength(flagTable.length);
    for (const row of rows) expect(row.replaceAll('\\|', '').match(/\|/g)).toHaveLength(5);
    expect(rows[0]).toContain('`FLANNELD_ETCD_ENDPOINTS`, `FLANNEL_ETCD_ENDPOINTS`, `FLANNEL_ETCD`');
  });
});
