import { afterAll, beforeAll, beforeEach, describe } from 'vitest';
import { forwardContract } from './firewall-forward.ts';
import { iptablesContract } from './firewall-iptables.ts';
import { modeContract } from './firewall-modes.ts';
import { nftablesContract } from './firewall-nftables.ts';
import { sharingContract } from './firewall-sharing.ts';
import { toolsContract } from './firewall-tools.ts';
import { type FirewallWorld, Operator, programOf } from './firewall-world.ts';

/** What the daemon's firewall does with a host's tools, real or simulated. `nft`: also what has to do with nft alone. */
export function firewallContract(
  name: string,
  makeWorld: () => Promise<FirewallWorld>,
  { nft = true } = {},
): void {
  describe(`firewall contract: ${name}`, () => {
    let world: FirewallWorld;
    const at = () => world;

    beforeAll(async () => {
      world = await makeWorld();
    });
    beforeEach(() => empty(new Operator(world)));
    afterAll(() => world.close());

    toolsContract(at);
    iptablesContract(at);
    forwardContract(at);
    if (nft) nftablesContract(at);
    modeContract(at);
    sharingContract(at);
  });
}

const NOTHING = [
  '*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n',
  '*nat\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n',
].join('');

/** As it was before anybody came. */
async function empty(operator: Operator): Promise<void> {
  for (const family of [4, 6] as const) await operator.run(`${programOf(family)}-restore`, NOTHING);
  for (const table of ['ip flannel-ipv4', 'ip6 flannel-ipv6']) {
    await operator.run('nft -f -', `add table ${table}\ndelete table ${table}\n`);
  }
}
