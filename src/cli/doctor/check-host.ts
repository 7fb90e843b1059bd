import {
  ArpError,
  conflictRemedy,
  conflictText,
  isLinkDown,
  openStation,
  type StationOptions,
  unknownText,
} from '../../arp/arp.ts';
import { bridgeName, cniBridgeName, poolOverlaps } from '../../backend/hostgw/host-networks.ts';
import { bridgeAddress, type Family, type PerFamily, type Subnet } from '../../ip/ip.ts';
import { forwarding, type Link, type LinkAddress, linkForwarding } from '../../kernel/kernel.ts';
import type { Files } from '../../runtime/effects.ts';
import { systemReason } from '../../runtime/errors.ts';
import type { NetworkConfig } from '../../subnet/config/config.ts';
import type { ChosenInterface } from '../this-host.ts';
import { type Finding, note, ok, problem } from './finding.ts';

/** What of this host is looked at beside its routes. */
export interface HostFacts {
  readonly files: Files;
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  readonly subnetFile: string;
  readonly dockerOptsFile?: string;
  /** Of the interface that peers reach this host by; absent: not known. */
  readonly mtu?: number;
  /** What to do about a file that is not as it must be. */
  readonly remedy: string;
}

/** Whether the kernel passes packets on, all in all and on the bridges and the links that peers reach this host by. */
export async function checkForwarding(
  files: Files,
  families: readonly Family[],
  uplinks: readonly string[],
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const family of families) {
    const { name, path } = forwarding[family];
    const value = await sysctlValue(files, path);
    if (value === undefined) findings.push(note(`${name} cannot be read`));
    else if (value === '0')
      findings.push(
        problem(
          `${name} is off: packets of containers are not passed on`,
          `sysctl -w ${name}=1, or start with --set-ip-forward.`,
        ),
      );
    else findings.push(ok(`${name} is on`), ...(family === 4 ? await linksOff(files, uplinks) : []));
  }
  return findings;
}

/** In IPv6 a link's own setting says only whether the host takes router advertisements there. */
async function linksOff(files: Files, uplinks: readonly string[]): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const link of [...uplinks, bridgeName, cniBridgeName]) {
    const { name, path } = linkForwarding(link);
    if ((await sysctlValue(files, path)) !== '0') continue;
    findings.push(
      problem(`${name} is off: packets that arrive on ${link} are not passed on`, `sysctl -w ${name}=1`),
    );
  }
  return findings;
}

/** Undefined when there is no such setting, or none that can be read. */
async function sysctlValue(files: Files, path: string): Promise<string | undefined> {
  return (await files.readText(path).catch(() => undefined))?.trim();
}

/** Whether subnet.env and Docker's options say what the lease and the interface do. */
export async function checkFiles(
  { files, subnetFile, dockerOptsFile, mtu, remedy }: HostFacts,
  own: PerFamily<Subnet>,
): Promise<readonly Finding[]> {
  const { ipv4, ipv6 } = own;
  const mtuOf = (name: string) => (mtu === undefined ? [] : [`${name}=${mtu}`]);
  const lines = [
    ...(ipv4 === undefined ? [] : [`FLANNEL_SUBNET=${bridgeAddress(ipv4)}`]),
    ...(ipv6 === undefined ? [] : [`FLANNEL_IPV6_SUBNET=${bridgeAddress(ipv6)}`]),
    ...mtuOf('FLANNEL_MTU'),
  ];
  const findings = [await checkFile(files, subnetFile, lines, remedy)];
  if (dockerOptsFile === undefined || ipv4 === undefined) return findings;
  const options = [`--bip=${bridgeAddress(ipv4)}`, ...mtuOf('--mtu')];
  return [...findings, await checkFile(files, dockerOptsFile, options, remedy)];
}

async function checkFile(
  files: Files,
  path: string,
  parts: readonly string[],
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
  const lacking = parts.filter((part) => !words.has(part));
  return lacking.length === 0
    ? ok(`${path} fits the lease`)
    : problem(`${path} does not fit the lease: it lacks ${lacking.join(' and ')}`, remedy);
}

/** A pool that overlaps a network of this host may cut it off, and keeps the daemon from starting. */
export function checkPools(
  facts: Pick<HostFacts, 'links' | 'addresses'>,
  config: NetworkConfig,
  own: PerFamily<Subnet>,
  interfaceIndex: number,
): readonly Finding[] {
  return poolOverlaps({ ...facts, own: [own], interfaceIndex }, config).map((overlap) =>
    problem(overlap.problem, overlap.remedy),
  );
}

/** What the link is asked by. */
export type AddressFacts = StationOptions;

/**
 * Whether ARP finds another host with the IPv4 address of this one, as the daemon asks at its start: by probes, which change nobody's
 * cache. Nothing is found on a link that is down, and nothing is said of an address that this host has alone.
 */
export async function checkAddress(
  facts: AddressFacts,
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
