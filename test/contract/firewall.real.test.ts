import { firewallContract } from './firewall.ts';
import { makeRealFirewall } from './firewall-real.ts';

firewallContract('iptables-legacy, nft', () => makeRealFirewall('legacy'));
firewallContract('iptables-nft, nft', () => makeRealFirewall('nft'));
