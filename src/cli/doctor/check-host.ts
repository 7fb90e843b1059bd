import { poolOverlaps } from '../../backend/hostgw/pool-overlap.ts';
import { bridgeAddress, type Family, type PerFamily, type Subnet } from '../../ip/ip.ts';
import type { Link, LinkAddress } from '../../kernel/kernel.ts';
import { forwarding } from '../../kernel/sysctl.ts';
import type { Files } from '../../runtime/files.ts';
import type { NetworkConfig } from '../../subnet/config.ts';
import { type Finding, failed, ok, problem } from './finding.ts';

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

/** Whether the kernel passes packets on at all. */
export async function checkForwarding(
  files: Files,
  families: readonly Family[],
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const family of families) {
    const { path, name } = forwarding[family];
    const text = await files.readText(path).catch(() => undefined);
    if (text?.trim() === '1') findings.push(ok(`${name} is on`));
    else
      findings.push(
        problem(
          `${name} is off: packets of containers are not passed on`,
          `sysctl -w ${name}=1, or start with --set-ip-forward.`,
        ),
      );
  }
  return findings;
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
    return failed(`${path} cannot be read`, error);
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
