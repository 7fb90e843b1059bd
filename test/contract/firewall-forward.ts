import { describe, expect, test } from 'vitest';
import { CheckedFirewall, type FirewallWorld, ipv4, Operator } from './firewall-world.ts';

const JUMP = '-m comment --comment "flanneld forward" -j FLANNEL-FWD';
const REJECT = '-j REJECT --reject-with icmp-host-prohibited';
const SSH = '-s 192.168.0.0/16 -j ACCEPT';

const COMMENTED = `-m comment --comment "no more" ${REJECT}`;
const ON_LO = [`-i lo ${REJECT}`, '-i lo -j DROP'];
const CENTOS = '-j RH-Firewall-1-INPUT';

type Position = 'auto' | 'first' | 'last';
type Rules = readonly string[];

/** FORWARD before the check and after it, without `-A FORWARD `; other chains that are there before. */
const rows: [Position, what: string, before: Rules, after: Rules, chains?: Rules][] = [
  ['auto', 'empty', [], [JUMP]],
  ['auto', 'no REJECT: appended', [SSH], [SSH, JUMP]],
  ['auto', 'a final REJECT: before it', [SSH, REJECT], [SSH, JUMP, REJECT]],
  ['auto', 'a final REJECT with a comment', [COMMENTED], [JUMP, COMMENTED]],
  ['auto', 'a final DROP: before it', [SSH, '-j DROP'], [SSH, JUMP, '-j DROP']],
  ['auto', 'a REJECT with a condition is no end', ON_LO, [...ON_LO, JUMP]],
  ['auto', 'a rule behind the REJECT does not hide it', [REJECT, SSH], [JUMP, REJECT, SSH]],
  [
    'auto',
    'a chain that ends in REJECT, as on CentOS 6',
    [SSH, CENTOS],
    [SSH, JUMP, CENTOS],
    ['-N RH-Firewall-1-INPUT', '-A RH-Firewall-1-INPUT -i lo -j ACCEPT', `-A RH-Firewall-1-INPUT ${REJECT}`],
  ],
  [
    'auto',
    'a chain that returns before its REJECT',
    ['-j MINE'],
    ['-j MINE', JUMP],
    ['-N MINE', '-A MINE -j RETURN', `-A MINE ${REJECT}`],
  ],
  ['auto', 'behind the REJECT, where flanneld puts it: moved', [SSH, REJECT, JUMP], [SSH, JUMP, REJECT]],
  ['auto', 'somewhere before the REJECT: left there', [JUMP, SSH, REJECT], [JUMP, SSH, REJECT]],
  ['auto', 'others append behind it: left there', [JUMP, SSH], [JUMP, SSH]],
  ['auto', 'twice: once', [JUMP, SSH, JUMP], [SSH, JUMP]],
  ['auto', 'without our comment: with it', ['-j FLANNEL-FWD', SSH], [SSH, JUMP]],
  ['auto', 'with a condition it is not ours', ['-i lo -j FLANNEL-FWD'], ['-i lo -j FLANNEL-FWD', JUMP]],
  ['first', 'put at the beginning', [SSH, REJECT], [JUMP, SSH, REJECT]],
  ['first', 'moved back to the beginning', [SSH, JUMP], [JUMP, SSH]],
  ['last', "put at the end, flanneld's place", [SSH, REJECT], [SSH, REJECT, JUMP]],
  ['last', 'moved to the end', [JUMP, SSH], [SSH, JUMP]],
];

/** Where the jump stands among FORWARD's rules. */
export function forwardContract(at: () => FirewallWorld): void {
  describe('the jump from FORWARD', () => {
    test.each(rows)('%s: %s', async (position, _, before, after, chains = []) => {
      const operator = new Operator(at());
      if (before.some((rule) => rule.includes('FLANNEL-FWD')))
        await operator.change('filter', ['-N FLANNEL-FWD']);
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
