import { describe, expect, test } from 'vitest';
import { CheckedFirewall, type FirewallWorld, ipv4, Operator } from './firewall-world.ts';

const JUMP = '-m comment --comment "flanneld forward" -j FLANNEL-FWD';
const REJECT = '-j REJECT --reject-with icmp-host-prohibited';
const SSH = '-s 192.168.0.0/16 -j ACCEPT';

interface Row {
  readonly what: string;
  readonly position: 'auto' | 'first' | 'last';
  /** FORWARD before the check, after `-A FORWARD `; more chains in front of it. */
  readonly before: readonly string[];
  readonly chains?: readonly string[];
  readonly after: readonly string[];
}

const rows: readonly Row[] = [
  { what: 'empty', position: 'auto', before: [], after: [JUMP] },
  { what: 'no REJECT: appended', position: 'auto', before: [SSH], after: [SSH, JUMP] },
  { what: 'a final REJECT: before it', position: 'auto', before: [SSH, REJECT], after: [SSH, JUMP, REJECT] },
  {
    what: 'a final REJECT with a comment',
    position: 'auto',
    before: [`-m comment --comment "no more" ${REJECT}`],
    after: [JUMP, `-m comment --comment "no more" ${REJECT}`],
  },
  {
    what: 'a final DROP: before it',
    position: 'auto',
    before: [SSH, '-j DROP'],
    after: [SSH, JUMP, '-j DROP'],
  },
  {
    what: 'a REJECT with a condition is no end',
    position: 'auto',
    before: ['-i lo -j REJECT --reject-with icmp-host-prohibited', '-i lo -j DROP'],
    after: ['-i lo -j REJECT --reject-with icmp-host-prohibited', '-i lo -j DROP', JUMP],
  },
  {
    what: 'a rule behind the REJECT does not hide it',
    position: 'auto',
    before: [REJECT, SSH],
    after: [JUMP, REJECT, SSH],
  },
  {
    what: 'a chain that ends in REJECT, as on CentOS 6',
    position: 'auto',
    chains: [
      '-N RH-Firewall-1-INPUT',
      '-A RH-Firewall-1-INPUT -i lo -j ACCEPT',
      `-A RH-Firewall-1-INPUT ${REJECT}`,
    ],
    before: [SSH, '-j RH-Firewall-1-INPUT'],
    after: [SSH, JUMP, '-j RH-Firewall-1-INPUT'],
  },
  {
    what: 'a chain that returns before its REJECT',
    position: 'auto',
    chains: ['-N MINE', '-A MINE -j RETURN', `-A MINE ${REJECT}`],
    before: ['-j MINE'],
    after: ['-j MINE', JUMP],
  },
  {
    what: "behind the REJECT, where flanneld's repair puts it: moved before it",
    position: 'auto',
    chains: ['-N FLANNEL-FWD'],
    before: [SSH, REJECT, JUMP],
    after: [SSH, JUMP, REJECT],
  },
  {
    what: 'already somewhere before the REJECT: left there',
    position: 'auto',
    chains: ['-N FLANNEL-FWD'],
    before: [JUMP, SSH, REJECT],
    after: [JUMP, SSH, REJECT],
  },
  {
    what: 'others append behind it: left there',
    position: 'auto',
    chains: ['-N FLANNEL-FWD'],
    before: [JUMP, SSH],
    after: [JUMP, SSH],
  },
  { what: 'first', position: 'first', before: [SSH, REJECT], after: [JUMP, SSH, REJECT] },
  {
    what: 'first: moved back to the beginning',
    position: 'first',
    chains: ['-N FLANNEL-FWD'],
    before: [SSH, JUMP],
    after: [JUMP, SSH],
  },
  { what: "last: flanneld's place", position: 'last', before: [SSH, REJECT], after: [SSH, REJECT, JUMP] },
  {
    what: 'last: moved to the end',
    position: 'last',
    chains: ['-N FLANNEL-FWD'],
    before: [JUMP, SSH],
    after: [SSH, JUMP],
  },
  {
    what: 'twice: once',
    position: 'auto',
    chains: ['-N FLANNEL-FWD'],
    before: [JUMP, SSH, JUMP],
    after: [SSH, JUMP],
  },
  {
    what: 'without our comment: with it',
    position: 'auto',
    chains: ['-N FLANNEL-FWD'],
    before: ['-j FLANNEL-FWD', SSH],
    after: [SSH, JUMP],
  },
  {
    what: 'with a condition it is not ours',
    position: 'auto',
    chains: ['-N FLANNEL-FWD'],
    before: ['-i lo -j FLANNEL-FWD'],
    after: ['-i lo -j FLANNEL-FWD', JUMP],
  },
];

/** Where the jump stands among FORWARD's rules. */
export function forwardContract(at: () => FirewallWorld): void {
  describe('the jump from FORWARD', () => {
    test.each(rows)('$position: $what', async ({ position, chains = [], before, after }) => {
      const operator = new Operator(at());
      await operator.change('filter', [...chains, ...before.map((rule) => `-A FORWARD ${rule}`)]);
      const settings = { forwardPosition: position, masquerade: false, networks: { ipv4 } };
      const firewall = new CheckedFirewall(at(), settings);
      await firewall.check();
      expect(await operator.rules('filter', 'FORWARD')).toEqual(after);
      await firewall.check();
      expect(firewall.writes).toEqual([]);
    });
  });
}
