import { describe, expect, test } from 'vitest';
import type { Family } from '../../src/ip/ip.ts';
import { CheckedFirewall, type FirewallWorld, ipv4, N, N6, Operator, S, S6 } from './firewall-world.ts';

const FORWARD = '-m comment --comment "flanneld forward"';
const MASQ = '-m comment --comment "flanneld masq"';

/** flanneld's iptables rules for a network and a subnet: table, chain, rules. */
export function rows(
  network: string,
  own: string,
  multicast: string,
): readonly (readonly [string, string, string])[] {
  return [
    ['filter', 'FORWARD', `${FORWARD} -j FLANNEL-FWD`],
    ['filter', 'FLANNEL-FWD', `-s ${network} ${FORWARD} -j ACCEPT`],
    ['filter', 'FLANNEL-FWD', `-d ${network} ${FORWARD} -j ACCEPT`],
    ['nat', 'POSTROUTING', `${MASQ} -j FLANNEL-POSTRTG`],
    ['nat', 'FLANNEL-POSTRTG', `-m mark --mark 0x4000/0x4000 ${MASQ} -j RETURN`],
    ['nat', 'FLANNEL-POSTRTG', `-s ${own} -d ${network} ${MASQ} -j RETURN`],
    ['nat', 'FLANNEL-POSTRTG', `-s ${network} -d ${own} ${MASQ} -j RETURN`],
    ['nat', 'FLANNEL-POSTRTG', `! -s ${network} -d ${own} ${MASQ} -j RETURN`],
    ['nat', 'FLANNEL-POSTRTG', `-s ${network} ! -d ${multicast} ${MASQ} -j MASQUERADE --random-fully`],
    ['nat', 'FLANNEL-POSTRTG', `! -s ${network} -d ${network} ${MASQ} -j MASQUERADE --random-fully`],
  ];
}

/** The lines of iptables-restore that leave a host as flanneld does, in the order in which it works. */
export function flanneldsLines(
  table: string,
  network = N,
  own = S,
  multicast = '224.0.0.0/4',
): readonly string[] {
  const wanted = rows(network, own, multicast).filter(([name]) => name === table);
  const [jump, ...rules] = wanted;
  const chains = new Set(rules.map(([, chain]) => chain));
  return [
    ...[...chains].map((chain) => `-N ${chain}`),
    ...[...rules, ...(jump === undefined ? [] : [jump])].map(([, chain, rule]) => `-A ${chain} ${rule}`),
  ];
}

const families: readonly (readonly [Family, readonly (readonly [string, string, string])[]])[] = [
  [4, rows(N, S, '224.0.0.0/4')],
  [6, rows(N6, S6, 'ff00::/8')],
];

async function expectRows(
  operator: Operator,
  family: Family,
  expected: ReturnType<typeof rows>,
): Promise<void> {
  for (const table of ['filter', 'nat']) {
    const lines = expected.filter(([name]) => name === table).map(([, chain, rule]) => `-A ${chain} ${rule}`);
    expect(await operator.rules(table, undefined, family)).toEqual(lines);
  }
}

/** The iptables column of the contract. */
export function iptablesContract(at: () => FirewallWorld): void {
  describe('iptables mode', () => {
    test.each(families)(
      'IPv%s: exactly these chains, rules, comments, in this order',
      async (family, expected) => {
        await new CheckedFirewall(at()).check();
        await expectRows(new Operator(at()), family, expected);
        expect(await new Operator(at()).chains('filter', family)).toEqual(['FLANNEL-FWD']);
        expect(await new Operator(at()).chains('nat', family)).toEqual(['FLANNEL-POSTRTG']);
      },
    );

    test('a check with nothing to do reads each table once and writes nothing', async () => {
      const firewall = new CheckedFirewall(at());
      await firewall.check();
      await firewall.check();
      expect(firewall.ran).toEqual([
        'iptables-save -t filter',
        'iptables-save -t nat',
        'ip6tables-save -t filter',
        'ip6tables-save -t nat',
      ]);
    });

    test('without --ip-masq there is no process for nat, without forward rules none for filter', async () => {
      const forwarding = new CheckedFirewall(at(), { masquerade: false });
      await forwarding.check();
      await forwarding.check();
      expect(forwarding.ran).toEqual(['iptables-save -t filter', 'ip6tables-save -t filter']);
      const neither = new CheckedFirewall(at(), { masquerade: false, forwardRules: false });
      await neither.check();
      await neither.check();
      expect(neither.ran).toEqual([]);
    });

    test('a family that is off is left alone', async () => {
      const firewall = new CheckedFirewall(at(), { networks: { ipv4 } });
      await firewall.check();
      expect(firewall.ran.filter((call) => call.startsWith('ip6'))).toEqual([]);
    });

    test('--ip-masq-fully-random-disable leaves --random-fully out, also of rules that are there', async () => {
      await new CheckedFirewall(at()).check();
      await new CheckedFirewall(at(), { fullyRandom: false }).check();
      const rules = await new Operator(at()).rules('nat', 'FLANNEL-POSTRTG');
      expect(rules).toHaveLength(6);
      expect(rules.join('\n')).not.toContain('random');
    });

    test('what flanneld left is taken over as it is: no write at all', async () => {
      const operator = new Operator(at());
      for (const table of ['filter', 'nat']) await operator.change(table, flanneldsLines(table));
      for (const table of ['filter', 'nat']) {
        await operator.change(table, flanneldsLines(table, N6, S6, 'ff00::/8'), 6);
      }
      const firewall = new CheckedFirewall(at());
      await firewall.check();
      expect(firewall.writes).toEqual([]);
      expect(firewall.messages('firewall-set')).toEqual([]);
    });

    test("another subnet of the same network: the old one's rules go, in one write per table, nothing doubles", async () => {
      const operator = new Operator(at());
      for (const table of ['filter', 'nat'])
        await operator.change(table, flanneldsLines(table, N, '10.5.99.0/24'));
      const firewall = new CheckedFirewall(at());
      await firewall.check();
      expect(firewall.writes.filter((call) => call.startsWith('iptables'))).toHaveLength(1);
      await expectRows(operator, 4, rows(N, S, '224.0.0.0/4'));
    });

    test('rules in another order, doubled, or strange ones among them are put right', async () => {
      const operator = new Operator(at());
      const firewall = new CheckedFirewall(at());
      await firewall.check();
      const first = (await operator.rules('nat', 'FLANNEL-POSTRTG'))[0] ?? '';
      await operator.change('nat', [
        `-D FLANNEL-POSTRTG -s ${S} -d ${N} ${MASQ} -j RETURN`,
        `-A FLANNEL-POSTRTG -s ${S} -d ${N} ${MASQ} -j RETURN`,
        `-A FLANNEL-POSTRTG ${first}`,
        '-I FLANNEL-POSTRTG 1 -j RETURN',
        `-A POSTROUTING ${MASQ} -j FLANNEL-POSTRTG`,
      ]);
      await firewall.check();
      await expectRows(operator, 4, rows(N, S, '224.0.0.0/4'));
      expect(firewall.messages('firewall-repaired')).toEqual([
        'firewall: restored our rules, which were missing or changed (iptables nat)',
      ]);
    });

    test('two rules that have changed places are put right', async () => {
      const operator = new Operator(at());
      const firewall = new CheckedFirewall(at(), { networks: { ipv4 }, masquerade: false });
      await firewall.check();
      const accept = `-s ${N} ${FORWARD} -j ACCEPT`;
      await operator.change('filter', [`-D FLANNEL-FWD ${accept}`, `-A FLANNEL-FWD ${accept}`]);
      await firewall.check();
      expect((await operator.rules('filter', 'FLANNEL-FWD'))[0]).toBe(accept);
    });

    test('rules of others stay where they are, also when they look a little like ours', async () => {
      const operator = new Operator(at());
      const theirs = {
        filter: [
          '-N MINE',
          '-A FORWARD -s 10.5.0.0/16 -j MINE',
          '-A FORWARD -d 10.5.0.0/16 -m comment --comment flanneld -j ACCEPT',
        ],
        nat: [
          `-A POSTROUTING -s ${S} -o eth0 -j MASQUERADE`,
          '-A POSTROUTING -m comment --comment "kube flanneld masq" -j RETURN',
        ],
      };
      await operator.change('filter', theirs.filter);
      await operator.change('nat', theirs.nat);
      await new CheckedFirewall(at()).check();
      await new CheckedFirewall(at(), { masquerade: false, forwardRules: false }).check();
      expect(await operator.rules('filter')).toEqual(theirs.filter.slice(1));
      expect(await operator.rules('nat')).toEqual(theirs.nat);
    });

    test("rules with our comment outside our chains, as flanneld's before 0.21 had them, are removed", async () => {
      const operator = new Operator(at());
      const ofAnother = `-s 172.31.0.0/16 ${FORWARD} -j ACCEPT`;
      await operator.change('filter', [`-A FORWARD ${ofAnother}`, `-A FORWARD -s ${N} ${FORWARD} -j ACCEPT`]);
      await operator.change('nat', [`-A POSTROUTING -s ${N} ! -d 224.0.0.0/4 ${MASQ} -j MASQUERADE`]);
      await new CheckedFirewall(at()).check();
      expect(await operator.rules('filter', 'FORWARD')).toEqual([ofAnother, `${FORWARD} -j FLANNEL-FWD`]);
      await operator.change('filter', [`-D FORWARD ${ofAnother}`]);
      await expectRows(operator, 4, rows(N, S, '224.0.0.0/4'));
    });

    test.each([
      ['iptables -F', 'iptables -F'],
      ['iptables -t nat -F', 'iptables -t nat -F'],
      ['ip6tables -t nat -F', 'ip6tables -t nat -F'],
    ])('all is back at the check after %s', async (_, command) => {
      const firewall = new CheckedFirewall(at());
      await firewall.check();
      await new Operator(at()).run(command);
      await firewall.check();
      expect(firewall.writes).toHaveLength(1);
      for (const [family, expected] of families) await expectRows(new Operator(at()), family, expected);
    });

    test('all is back at the check after firewalld has loaded its own tables anew, and its rules stay', async () => {
      const operator = new Operator(at());
      const firewall = new CheckedFirewall(at());
      await firewall.check();
      const reloaded = [
        '*filter',
        ':INPUT ACCEPT [0:0]',
        ':FORWARD ACCEPT [0:0]',
        ':FORWARD_direct - [0:0]',
        '-A FORWARD -j FORWARD_direct',
        '-A FORWARD -j REJECT --reject-with icmp-host-prohibited',
        'COMMIT',
        '*nat',
        ':POSTROUTING ACCEPT [0:0]',
        'COMMIT',
        '',
      ];
      await operator.run('iptables-restore', reloaded.join('\n'));
      expect(await operator.chains('nat')).toEqual([]);
      await firewall.check();
      expect(await operator.rules('filter', 'FORWARD')).toEqual([
        '-j FORWARD_direct',
        `${FORWARD} -j FLANNEL-FWD`,
        '-j REJECT --reject-with icmp-host-prohibited',
      ]);
      expect(await operator.rules('nat', 'FLANNEL-POSTRTG')).toHaveLength(6);
      await firewall.check();
      expect(firewall.writes).toEqual([]);
    });
  });
}
