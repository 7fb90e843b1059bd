import type { SimHost } from '../host.ts';
import { type Fault, onHost } from './fault.ts';
import type { World } from './world.ts';

const long = [500, 400_000] as const;
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

/** What keeps a host from passing packets on, whatever its routes are. */
export const forwardingFaults: Readonly<Record<string, Fault>> = {
  'forwarding is switched off': onHost({ weight: 2, lastsMs: long, apart: true }, (host, world) => {
    host.files.place(forwarding, '0\n');
    const done = expectUnready(world, host, 15_000, () => host.files.peek(forwarding) === '0\n');
    return () => {
      done();
      host.files.place(forwarding, '1\n');
    };
  }),
  'a rule of the firewall drops': onHost(
    { weight: 3, lastsMs: [30_000, 400_000], apart: true },
    (host, world, { dice }) => {
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
    },
  ),
};
