import { describe, expect, it } from 'vitest';
import { type Call, SimFirewall } from '../../sim/firewall.ts';
import { failed } from '../../sim/firewall-iptables.ts';
import { CommandError } from '../../src/runtime/effects.ts';
import { CheckedFirewall, ipv4, Operator } from '../contract/firewall-world.ts';

type Settings = ConstructorParameters<typeof CheckedFirewall>[1];

function start(
  settings: Settings = {},
  resyncMs = 5_000,
): {
  tools: SimFirewall;
  firewall: CheckedFirewall;
  operator: Operator;
} {
  const tools = new SimFirewall();
  const world = { commands: tools, close: async () => undefined };
  const firewall = new CheckedFirewall(world, { networks: { ipv4 }, ...settings }, resyncMs);
  return { tools, firewall, operator: new Operator(world) };
}

const lock = 'Another app is currently holding the xtables lock. Stopped waiting after 5s.';

interface Row {
  readonly what: string;
  readonly settings?: Settings;
  /** Answers in the place of the real tools while it lasts; undefined leaves it to them. */
  readonly fault: (call: Call) => ReturnType<typeof failed> | undefined;
  readonly message: RegExp;
}

const saveSays = (text: string) => (call: Call) =>
  call.program.endsWith('-save') ? { exitCode: 0, stdout: text, stderr: '' } : undefined;
const says = (text: string, exitCode: number, program: RegExp) => (call: Call) =>
  program.test(call.program) ? failed(exitCode, text) : undefined;

const rows: readonly Row[] = [
  {
    what: 'iptables is not installed',
    fault: ({ program }) => {
      throw new CommandError('COMMAND_MISSING', `${program} is not installed`);
    },
    message: /^firewall: iptables-save is not installed. Install the package iptables/,
  },
  {
    what: 'nft is not installed',
    settings: { mode: 'nftables' },
    fault: ({ program }) => {
      throw new CommandError('COMMAND_MISSING', `${program} is not installed`);
    },
    message: /^firewall: nft is not installed. Install the package nftables/,
  },
  {
    what: 'the kernel module is missing',
    fault: says(
      "can't initialize iptables table `nat': Table does not exist (do you need to insmod?)",
      3,
      /-save/,
    ),
    message: /insmod.*Load the kernel module \(modprobe ip_tables/,
  },
  {
    what: 'the kernel has no nf_tables',
    settings: { mode: 'nftables' },
    fault: (call) =>
      call.args[0] === '-j'
        ? failed(1, 'netlink: Error: cache initialization failed: Protocol not supported')
        : undefined,
    message: /Load the kernel module/,
  },
  { what: 'the lock is held', fault: says(lock, 4, /-restore/), message: /holding the xtables lock.*fuser/ },
  {
    what: 'no permission',
    fault: says(
      'Fatal: Could not fetch rule set generation id: Permission denied (you must be root)',
      4,
      /-save/,
    ),
    message: /Run as root, or with CAP_NET_ADMIN/,
  },
  {
    what: 'the tool hangs',
    fault: ({ program }) => {
      throw new CommandError('COMMAND_TIMEOUT', `${program} took longer than 20 s`);
    },
    message: /took longer than 20 s/,
  },
  {
    what: 'the output is cut off',
    fault: saveSays('*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j AC'),
    message: /no complete table/,
  },
  {
    what: 'the output is of another table',
    fault: saveSays('*mangle\nCOMMIT\n'),
    message: /no complete table/,
  },
  {
    what: 'a line of no known form',
    fault: (call) => saveSays(`*${call.args[1]}\n:FORWARD ACCEPT [0:0]\nwhat?\nCOMMIT\n`)(call),
    message: /an unknown line: what\?/,
  },
  {
    what: 'a table iptables cannot show',
    fault: saveSays("# Table `nat' is incompatible, use 'nft' tool.\n"),
    message: /only nft can print.*nft list ruleset/,
  },
  {
    what: 'nft prints no JSON',
    settings: { mode: 'nftables' },
    fault: (call) => (call.args[0] === '-j' ? { exitCode: 0, stdout: '{"nfta', stderr: '' } : undefined),
    message: /nft printed no table: \{"nfta/,
  },
  {
    what: 'nft was built without JSON',
    settings: { mode: 'nftables' },
    fault: says('Error: JSON support not compiled-in', 1, /^nft/),
    message: /Install an nft with JSON support/,
  },
  {
    what: 'the version cannot be read',
    fault: (call) =>
      call.args[0] === '--version' ? { exitCode: 0, stdout: 'iptables', stderr: '' } : undefined,
    message: /--version prints no version/,
  },
];

describe('a firewall that cannot be kept', () => {
  it.each(rows)('$what: one line with the remedy, tried again, over when it works', async (row) => {
    const { tools, firewall } = start(row.settings, 3_600_000);
    tools.before = row.fault;
    for (let i = 0; i < 5; i++) expect(await firewall.check()).toBeLessThanOrEqual(11_000);
    expect(firewall.messages('trouble')).toEqual([expect.stringMatching(row.message)]);
    expect(firewall.trouble.current).toHaveLength(1);
    tools.before = undefined;
    await firewall.check();
    expect(firewall.messages('trouble-over')).toEqual(['the firewall rules are in place']);
    expect(firewall.messages('firewall-set').length).toBeGreaterThan(0);
    await firewall.stop();
  });

  it('IPv6 out of order does not keep IPv4 from being put in place', async () => {
    const tools = new SimFirewall();
    const world = { commands: tools, close: async () => undefined };
    tools.before = says('Protocol not supported', 1, /^ip6/);
    const firewall = new CheckedFirewall(world);
    await firewall.check();
    expect(await new Operator(world).rules('nat')).toHaveLength(7);
    expect(firewall.trouble.current).toHaveLength(1);
  });

  it('rules of the former mode stay as long as the new mode cannot be put in place', async () => {
    const { tools, firewall: before, operator } = start();
    await before.check();
    const world = { commands: tools, close: async () => undefined };
    const after = new CheckedFirewall(world, { mode: 'nftables', networks: { ipv4 } });
    tools.missing.add('nft');
    await after.check();
    expect(await operator.rules('nat')).toHaveLength(7);
    tools.missing.clear();
    await after.check();
    expect(await operator.rules('nat')).toEqual([]);
  });

  it('a tool of the other mode that is not installed has left nothing: no trouble', async () => {
    const { tools, firewall } = start();
    tools.missing.add('nft');
    await firewall.check();
    expect(firewall.trouble.current).toEqual([]);
  });

  it('a mistake in the program is a trouble too, and does not end it', async () => {
    const { tools, firewall } = start();
    tools.before = () => {
      throw new TypeError('undefined is not a function');
    };
    await firewall.check();
    await firewall.check();
    expect(firewall.log.events('trouble')).toMatchObject([{ level: 'error' }]);
    await firewall.stop();
  });

  it('rules that are gone right after they were written: says so', async () => {
    const { tools, firewall } = start({ masquerade: false });
    tools.before = (call) =>
      call.program.endsWith('-restore') ? { exitCode: 0, stdout: '', stderr: '' } : undefined;
    await firewall.check();
    expect(firewall.messages('trouble')).toEqual([expect.stringContaining('right after they were written')]);
  });

  it('a program that removes our rules again and again is a trouble, over when it stops', async () => {
    const { firewall, operator } = start({ masquerade: false });
    await firewall.check();
    for (let i = 0; i < 6; i++) {
      await operator.run('iptables -F');
      await firewall.check();
    }
    expect(firewall.messages('firewall-repaired')).toHaveLength(2);
    expect(firewall.messages('trouble')).toEqual([
      expect.stringContaining('another program keeps removing or changing'),
    ]);
    await firewall.check();
    expect(firewall.messages('trouble-over')).toEqual(['the firewall rules are stable again']);
    expect(firewall.trouble.current).toEqual([]);
  });
});

describe('when the firewall is checked', () => {
  it.each([1_000, 5_000, 3_600_000])('every %i ms, give or take a tenth', async (resyncMs) => {
    const firewall = new CheckedFirewall(
      { commands: new SimFirewall(), close: async () => undefined },
      {},
      resyncMs,
    );
    for (let i = 0; i < 20; i++) {
      const waitMs = await firewall.check();
      expect(waitMs).toBeGreaterThanOrEqual(0.9 * resyncMs);
      expect(waitMs).toBeLessThanOrEqual(1.1 * resyncMs);
    }
  });
});

describe('what the installed iptables can', () => {
  it.each([
    ['1.4.21', [], false],
    ['1.6.1', [], false],
    ['1.6.2', ['-w', '5'], true],
    ['1.8.9', ['-w', '5'], true],
    ['1.8.11', ['-w', '5'], true],
    ['2.0.0', ['-w', '5'], true],
  ] as const)('%s', async (version, wait, random) => {
    const { tools, firewall, operator } = start();
    tools.version = version;
    await firewall.check();
    expect(firewall.writes).toContain(['iptables-restore', ...wait, '--noflush'].join(' '));
    expect((await operator.rules('nat')).join('\n').includes('--random-fully')).toBe(random);
  });

  it('is asked once, and not at all when nothing has to be known', async () => {
    const { firewall } = start({ forwardRules: false, masquerade: false });
    await firewall.check();
    expect(firewall.ran.filter((call) => call.includes('version'))).toEqual([]);
    const { firewall: other, operator } = start();
    await other.check();
    expect(other.ran.filter((call) => call.includes('version'))).toEqual(['iptables --version']);
    await operator.run('iptables -t nat -F');
    await other.check();
    expect(other.ran.filter((call) => call.includes('version'))).toEqual([]);
  });
});
