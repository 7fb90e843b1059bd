import { rmSync } from 'node:fs';
import { systemCommands } from '../../src/daemon/host/commands.ts';
import { type IptablesVariant, iptablesFolder } from '../testbed/iptables.ts';
import { enterNamespace, type Host, makeNetwork } from '../testbed/netns.ts';
import type { FirewallWorld } from './firewall-world.ts';

/** This machine's tools in a namespace of its own, which this process's main thread is moved into until it is closed. */
export async function makeRealFirewall(
  variant: IptablesVariant,
): Promise<FirewallWorld & { readonly host: Host }> {
  const network = await makeNetwork([{ addresses: ['10.211.55.100/24'] }]);
  const [host] = network.hosts;
  if (host === undefined) throw new Error('no host');
  const folder = iptablesFolder(variant);
  const leave = enterNamespace(host.namespace);
  return {
    host,
    commands: systemCommands([folder]),
    close: async () => {
      leave();
      rmSync(folder, { recursive: true });
      await network.close();
    },
  };
}
