import { SimFirewall } from '../../sim/firewall.ts';
import { firewallContract } from './firewall.ts';

firewallContract('in memory', async () => ({ commands: new SimFirewall(), close: async () => undefined }));
