import { existsSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { tempDir } from './run.ts';

/** The two programs that are called iptables: one writes the kernel's old tables, one nftables'. */
export type IptablesVariant = 'legacy' | 'nft';

/**
 * A folder with this machine's iptables of one variant under the usual names, to be put in front of PATH; the caller removes
 * it. Needs the package iptables.
 */
export function iptablesFolder(variant: IptablesVariant): string {
  const folder = tempDir(`iptables-${variant}`);
  for (const program of ['iptables', 'ip6tables']) {
    for (const suffix of ['', '-save', '-restore']) {
      const target = `/usr/sbin/${program}-${variant}${suffix}`;
      if (!existsSync(target)) throw new Error(`no ${target} on this machine: apt-get install iptables`);
      symlinkSync(target, join(folder, `${program}${suffix}`));
    }
  }
  return folder;
}
