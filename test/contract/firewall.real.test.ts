import { firewallContract } from './firewall.ts';
import { makeRealFirewall } from './firewall-real.ts';

// There is one nft for both.
firewallContract('iptables-legacy', () => makeRealFirewall('legacy'), { nft: false });
firewallContract('iptables-nft, nft', () => makeRealFirewall('nft'));
