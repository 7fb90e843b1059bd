import { SimFirewall } from '../../sim/firewall.ts';
import { CheckedFirewall, ipv4, Operator } from '../contract/firewall-world.ts';

export type Settings = ConstructorParameters<typeof CheckedFirewall>[1];

/** A host's simulated tools, the daemon that keeps the rules of IPv4 with them, and the operator. */
export function firewallHost(settings: Settings = {}, resyncMs?: number) {
  const tools = new SimFirewall();
  const world = { commands: tools, close: async () => undefined };
  const firewall = new CheckedFirewall(world, { networks: { ipv4 }, ...settings }, resyncMs);
  return { tools, world, firewall, operator: new Operator(world) };
}
