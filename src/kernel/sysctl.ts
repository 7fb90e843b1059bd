import type { Family } from '../ip/ip.ts';

/** A setting of the kernel: `0` or `1`, and absent where the kernel lacks what it is about. */
export interface Sysctl {
  readonly path: string;
  /** For sysctl(8). */
  readonly name: string;
}

/** Whether packets are passed on. */
export const forwarding: Readonly<Record<Family, Sysctl>> = {
  4: { path: '/proc/sys/net/ipv4/ip_forward', name: 'net.ipv4.ip_forward' },
  6: { path: '/proc/sys/net/ipv6/conf/all/forwarding', name: 'net.ipv6.conf.all.forwarding' },
};

/** Whether IPv4 packets that arrive on a link are passed on. Setting {@link forwarding} sets it for every link. */
export function linkForwarding(link: string): Sysctl {
  // In a name of sysctl(8) a dot separates; that of a VLAN is written with a slash.
  return {
    path: `/proc/sys/net/ipv4/conf/${link}/forwarding`,
    name: `net.ipv4.conf.${link.replaceAll('.', '/')}.forwarding`,
  };
}

/** Whether what a bridge passes on goes through iptables; there once br_netfilter is loaded. */
export const bridgeFilter: Readonly<Record<Family, Sysctl>> = {
  4: { path: '/proc/sys/net/bridge/bridge-nf-call-iptables', name: 'net.bridge.bridge-nf-call-iptables' },
  6: { path: '/proc/sys/net/bridge/bridge-nf-call-ip6tables', name: 'net.bridge.bridge-nf-call-ip6tables' },
};
