import { ArpError } from '../../arp/arp.ts';
import {
  conflictRemedy,
  conflictText,
  isLinkDown,
  openStation,
  type StationOptions,
  unknownText,
} from '../../arp/station.ts';
import { bridgeName, cniBridgeName } from '../../backend/hostgw/host-networks.ts';
import { bridgeAddress, type Family, type PerFamily, type Subnet } from '../../ip/ip.ts';
import { forwarding, linkForwarding, type Sysctl } from '../../kernel/sysctl.ts';
import type { Files } from '../../runtime/effects.ts';
import { systemReason } from '../../runtime/errors.ts';
import type { ChosenInterface } from '../lease.ts';
import { type Finding, note, ok, problem } from './finding.ts';

/** Whether the kernel forwards packets, in general and on the bridges and the interface to the peers. */
export async function checkForwarding(
  files: Files,
  families: readonly Family[],
  uplinks: readonly string[],
): Promise<readonly Finding[]> {
  // A setting may be missing or unreadable.
  const valueOf = async ({ path }: Sysctl) => (await files.readText(path).catch(() => undefined))?.trim();
  const findings: Finding[] = [];
  for (const family of families) {
    const { name } = forwarding[family];
    const value = await valueOf(forwarding[family]);
    if (value === undefined) findings.push(note(`${name} cannot be read`));
    else if (value === '0') {
      const remedy = `sysctl -w ${name}=1, or start the daemon with --set-ip-forward.`;
      findings.push(problem(`${name} is off: this host does not forward packets of containers`, remedy));
    } else {
      findings.push(ok(`${name} is on`));
      // In IPv6 a link's own setting says only whether the host takes router advertisements there.
      for (const link of family === 4 ? [...uplinks, bridgeName, cniBridgeName] : []) {
        const its = linkForwarding(link);
        const text = `${its.name} is off: this host does not forward packets that arrive on ${link}`;
        if ((await valueOf(its)) === '0') findings.push(problem(text, `sysctl -w ${its.name}=1`));
      }
    }
  }
  return findings;
}

/** The files that the daemon writes. */
export interface FileFacts {
  readonly files: Files;
  readonly subnetFile: string;
  readonly dockerOptsFile?: string;
}

/** Whether subnet.env and Docker's options match the lease and, if known, the interface's MTU. */
export async function checkFiles(
  { files, subnetFile, dockerOptsFile }: FileFacts,
  { ipv4, ipv6 }: PerFamily<Subnet>,
  mtu: number | undefined,
  remedy: string,
): Promise<readonly Finding[]> {
  const [bridge4, bridge6] = [ipv4 && bridgeAddress(ipv4), ipv6 && bridgeAddress(ipv6)];
  const lines = {
    FLANNEL_SUBNET: bridge4,
    FLANNEL_IPV6_SUBNET: bridge6,
    FLANNEL_MTU: mtu,
  };
  const findings = [await checkFile(files, subnetFile, lines, remedy)];
  if (dockerOptsFile !== undefined && bridge4 !== undefined)
    findings.push(await checkFile(files, dockerOptsFile, { '--bip': bridge4, '--mtu': mtu }, remedy));
  return findings;
}

async function checkFile(
  files: Files,
  path: string,
  wanted: Readonly<Record<string, string | number | undefined>>,
  remedy: string,
): Promise<Finding> {
  let text: string | undefined;
  try {
    text = await files.readText(path);
  } catch (error) {
    return problem(`${path} cannot be read: ${systemReason(error)}`, remedy);
  }
  if (text === undefined) return problem(`${path} is missing`, remedy);
  const words = new Set(text.split(/[\s"']+/));
  const lacking = Object.entries(wanted)
    .filter(([name, value]) => value !== undefined && !words.has(`${name}=${value}`))
    .map(([name, value]) => `${name}=${value}`);
  return lacking.length === 0
    ? ok(`${path} matches the lease`)
    : problem(`${path} does not match the lease: it lacks ${lacking.join(' and ')}`, remedy);
}

/**
 * Whether another host answers ARP probes for this host's IPv4 address. The daemon sends the same probes at
 * its start; they change no host's ARP cache. Says nothing on a link that is down.
 */
export async function checkAddress(
  facts: StationOptions,
  chosen: ChosenInterface,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { name, addresses } = chosen;
  const address = addresses.ipv4;
  if (address === undefined) return [];
  try {
    const station = await openStation(facts, chosen, address, signal);
    try {
      const rival = await station.probe(signal);
      if (rival === undefined) return [];
      return [problem(conflictText(rival, { name, address, mac: station.mac }), `${conflictRemedy}.`)];
    } finally {
      station.close();
    }
  } catch (error) {
    if (!(error instanceof ArpError)) throw error;
    return isLinkDown(error) ? [] : [note(unknownText(address, error))];
  }
}
