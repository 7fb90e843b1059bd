import type { SimHost } from '../host.ts';
import { apart, atOnce, type Faults, onHost } from './fault.ts';
import type { World } from './world.ts';

const [long, toolMs] = [[500, 400_000] as const, [500, 200_000] as const];
const forwarding = '/proc/sys/net/ipv4/ip_forward';
/** How often it is looked whether a host says so. */
const lookMs = 1_000;

/**
 * Rules that let no packet of the cluster's network pass, and how soon they are found. The table that holds the daemon's own rules is
 * read once a minute, others are looked at every other time at the latest.
 */
const rules = [
  { table: 'filter', rule: 'FORWARD -s 172.20.0.0/16 -j DROP', limitMs: 75_000 },
  { table: 'filter', rule: 'FORWARD -d 172.20.0.0/16 -j DROP', limitMs: 75_000 },
  { table: 'raw', rule: 'PREROUTING -d 172.20.0.0/16 -j DROP', limitMs: 140_000 },
] as const;

/**
 * Looks from now on whether a host that passes no packets says so: `isClosed` tells whether it passes none just now, and it has
 * `limitMs` to find out. Returns what ends it.
 */
function expectUnready(world: World, host: SimHost, limitMs: number, isClosed: () => boolean): () => void {
  let isOver = false;
  let sinceMs = world.nowMs;
  let { notifier } = host;
  const look = () => {
    if (isOver) return;
    // A suspended host finds out after it is resumed.
    const isAwake = host.running && host.notifier === notifier && !host.clock.suspended;
    const canKnow = isAwake && !world.hearsLate(host);
    if (!canKnow || !isClosed()) sinceMs = world.nowMs;
    ({ notifier } = host);
    if (world.nowMs - sinceMs > limitMs && host.readiness.ready) {
      const text = `${host.name} has been ready for ${limitMs / 1_000} s, and passes no packets`;
      return world.violate('who passes no packets is not ready', text);
    }
    world.later(lookMs, look);
  };
  look();
  return () => {
    isOver = true;
  };
}

/** A line of `iptables-restore` that puts a rule first, or takes it away. */
function edit({ firewall }: SimHost, table: string, line: string): void {
  firewall.answer({
    program: 'iptables-restore',
    args: ['--noflush'],
    stdin: `*${table}\n${line}\nCOMMIT\n`,
  });
}

/** What iptables answers when it cannot. */
const answers = [
  { exitCode: 4, stderr: 'Another app is currently holding the xtables lock.' },
  { exitCode: 1, stderr: 'iptables: Invalid argument.' },
] as const;

/** What happens to a host's firewall, and what keeps it from passing packets on, whatever its routes are. */
export const firewallFaults: Faults = {
  'the firewall tool fails': onHost(1, toolMs, (host, _, { dice }) => {
    const { firewall } = host;
    const { exitCode, stderr } = answers[dice % 2] ?? answers[0];
    firewall.before = () => ({ exitCode, stdout: '', stderr });
    return () => {
      firewall.before = undefined;
    };
  }),
  'the firewall tool is missing': onHost(1, toolMs, (host) => {
    const { missing } = host.firewall;
    const programs = ['iptables', 'iptables-save', 'iptables-restore'];
    for (const program of programs) missing.add(program);
    return () => {
      for (const program of programs) missing.delete(program);
    };
  }),
  'firewall rules flushed': onHost(2, atOnce, (host) => {
    host.firewall.answer({ program: 'iptables', args: ['-t', 'filter', '-F'], stdin: '' });
  }),
  ...apart({
    'forwarding is switched off': onHost(2, long, (host, world) => {
      host.files.place(forwarding, '0\n');
      const done = expectUnready(world, host, 15_000, () => host.files.peek(forwarding) === '0\n');
      return () => {
        done();
        host.files.place(forwarding, '1\n');
      };
    }),
    'a rule of the firewall drops': onHost(3, [30_000, 400_000], (host, world, { dice }) => {
      const { firewall } = host;
      const { table, rule, limitMs } = rules[dice % rules.length] ?? rules[0];
      edit(host, table, `-I ${rule.replace(' ', ' 1 ')}`);
      // It may be flushed, and a tool that fails shows nothing.
      const isClosed = () =>
        firewall.before === undefined &&
        firewall.missing.size === 0 &&
        firewall
          .answer({ program: 'iptables-save', args: ['-t', table], stdin: '' })
          .stdout.includes(`-A ${rule}\n`);
      const done = expectUnready(world, host, limitMs, isClosed);
      return () => {
        done();
        edit(host, table, `-D ${rule}`);
      };
    }),
  }),
};
