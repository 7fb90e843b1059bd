import type { Fault } from './fault.ts';
import { addressFaults } from './faults-addresses.ts';
import { etcdFaults } from './faults-etcd.ts';
import { fileFaults } from './faults-files.ts';
import { firewallFaults } from './faults-firewall.ts';
import { hostFaults } from './faults-host.ts';
import { kernelFaults } from './faults-kernel.ts';
import { linkFaults } from './faults-links.ts';
import { networkFaults } from './faults-network.ts';
import { operatorFaults } from './faults-operator.ts';

/** Every kind by its name. */
export const faults: ReadonlyMap<string, Fault> = new Map(
  Object.entries({
    ...networkFaults,
    ...etcdFaults,
    ...hostFaults,
    ...linkFaults,
    ...kernelFaults,
    ...operatorFaults,
    ...addressFaults,
    ...fileFaults,
    ...firewallFaults,
  }),
);
