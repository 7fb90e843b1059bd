import { describe, expect, it } from 'vitest';
import { parseOptions } from '../../src/daemon/options/options.ts';
import { flagTable } from '../../src/daemon/options/table.ts';
import { run, usageError } from './options-run.ts';

/** The two last rows of the contract's table. `refused`: words of the sentence for the value that is refused. */
interface OldFlag {
  readonly name: string;
  readonly boolean?: true;
  readonly refused?: string;
}

const OLD: readonly OldFlag[] = [
  { name: 'kube-subnet-mgr', boolean: true, refused: 'leases kept by Kubernetes are not supported' },
  { name: 'kube-api-url' },
  { name: 'kubeconfig-file' },
  { name: 'kube-annotation-prefix' },
  { name: 'net-config-path' },
  { name: 'set-node-network-unavailable', boolean: true },
  { name: 'vmodule' },
  { name: 'log_backtrace_at' },
  { name: 'logtostderr', boolean: true },
  { name: 'alsologtostderr', boolean: true },
  { name: 'log_dir' },
  { name: 'stderrthreshold' },
  { name: 'subnet-dir' },
  { name: 'remote', refused: 'client mode is not supported' },
  { name: 'remote-keyfile' },
  { name: 'remote-certfile' },
  { name: 'remote-cafile' },
  { name: 'listen', refused: 'server mode is not supported' },
  { name: 'networks', refused: 'several networks in one daemon are not supported' },
  { name: 'watch-networks', boolean: true },
];

const variableOf = ({ name }: OldFlag) => `FLANNELD_${name.toUpperCase().replaceAll('-', '_')}`;
const wayIn = (flag: OldFlag): readonly (readonly string[])[] =>
  flag.boolean
    ? [[`-${flag.name}`], [`--${flag.name}`], [`-${flag.name}=T`], [`--${flag.name}=1`]]
    : [[`-${flag.name}=x`], [`-${flag.name}`, 'x'], [`--${flag.name}=x`], [`--${flag.name}`, 'x']];

describe("flanneld's old flags", () => {
  it.each(OLD.filter(({ refused }) => refused === undefined))(
    '$name is ignored with a warning',
    async (flag) => {
      for (const argv of wayIn(flag)) {
        const { options, warnings } = await run([...argv, '-etcd-prefix=/x']);
        expect(options.etcdPrefix).toBe('/x');
        expect(warnings).toEqual([`ignored, because it has no effect here: --${flag.name}`]);
      }
      expect((await run([], { [variableOf(flag)]: flag.boolean ? 'true' : 'x' })).warnings).toEqual([
        `ignored, because it has no effect here: ${variableOf(flag)}`,
      ]);
    },
  );

  it.each(OLD.filter(({ refused }) => refused !== undefined))('$name is refused when set', async (flag) => {
    for (const argv of wayIn(flag)) {
      expect(await usageError(argv)).toMatchObject({
        code: 'USAGE_REFUSED_MODE',
        exitCode: 2,
        message: expect.stringMatching(new RegExp(`^--${flag.name}: .*${flag.refused}.*: \\w+`)),
      });
    }
    const { message } = await usageError([], { [variableOf(flag)]: flag.boolean ? 'true' : 'x' });
    expect(message).toMatch(new RegExp(`^${variableOf(flag)}: `));
  });

  it('are one warning, however many', async () => {
    const argv = ['-logtostderr', '-alsologtostderr=false', '-log_dir=/var/log', '-subnet-dir', '/run/x'];
    expect((await run(argv, { FLANNELD_VMODULE: 'a=1', FLANNELD_LOG_DIR: '/x' })).warnings).toEqual([
      'ignored, because it has no effect here: FLANNELD_VMODULE, --logtostderr, --alsologtostderr, --log_dir, --subnet-dir',
    ]);
  });

  it.each([
    [['-kube-subnet-mgr=false']],
    [['-kube-subnet-mgr=F', '--remote=', '--listen=', '--networks=']],
    [['-kube-subnet-mgr', '-kube-subnet-mgr=false']],
  ])('that asked for another mode are let pass when not set: %j', async (argv) => {
    expect((await run(argv, { FLANNELD_REMOTE: '', FLANNELD_KUBE_SUBNET_MGR: 'false' })).warnings).toEqual(
      [],
    );
  });

  it('count before their variables', async () => {
    expect((await run(['--remote='], { FLANNELD_REMOTE: '10.0.0.1:8888' })).warnings).toEqual([]);
  });

  it.each([
    [['-kube-subnet-mgr=maybe'], {}, '--kube-subnet-mgr is "maybe": it must be true or false'],
    [[], { FLANNELD_LOGTOSTDERR: 'yes' }, 'FLANNELD_LOGTOSTDERR is "yes": it must be true or false'],
    [['--listen'], {}, '--listen needs a value'],
  ])('take no wrong value: %j %j', async (argv, env, message) => {
    expect((await usageError(argv, env)).message).toContain(message);
  });

  it.each([
    ['--lisen=x', 'unknown flag "--lisen": see flanneld-ts --help'],
    ['--kube-api-ur=x', 'unknown flag "--kube-api-ur": see flanneld-ts --help'],
  ])('are not suggested for %s', async (word, message) => {
    expect((await usageError([word])).message).toBe(message);
  });

  it('are in no help text', async () => {
    const help = await parseOptions({ argv: ['--help'], env: {} });
    if (help.command !== 'help') throw new Error('no help');
    for (const { name } of OLD) expect(help.text).not.toContain(`--${name}`);
    expect(flagTable.filter(({ name }) => OLD.some((old) => old.name === name))).toEqual([]);
  });

  it('are no flags of a command', async () => {
    expect((await usageError(['health', '--logtostderr'])).message).toContain('unknown flag "--logtostderr"');
  });
});
