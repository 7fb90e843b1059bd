import { bridgeName, poolOverlaps } from '../../backend/hostgw/pool-overlap.ts';
import { bridgeAddress, familiesOf, type PerFamily, type Subnet } from '../../ip/ip.ts';
import type { Link, LinkAddress } from '../../kernel/kernel.ts';
import { forwarding } from '../../kernel/sysctl.ts';
import type { Files } from '../../runtime/files.ts';
import type { NetworkConfig } from '../../subnet/config.ts';
import { type Finding, failed, note, ok, problem } from './finding.ts';

/** What of this host is looked at beside its routes. */
export interface HostFacts {
  readonly files: Files;
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  readonly subnetFile: string;
  readonly dockerOptsFile?: string;
}

/** Whether the kernel passes packets on at all. */
export async function checkForwarding(files: Files, config: NetworkConfig): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const family of familiesOf(config)) {
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

/** Whether subnet.env and Docker's options say what the lease says. */
export async function checkFiles(
  { files, subnetFile, dockerOptsFile }: HostFacts,
  own: PerFamily<Subnet>,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  const { ipv4, ipv6 } = own;
  const lines = [
    ...(ipv4 === undefined ? [] : [`FLANNEL_SUBNET=${bridgeAddress(ipv4)}`]),
    ...(ipv6 === undefined ? [] : [`FLANNEL_IPV6_SUBNET=${bridgeAddress(ipv6)}`]),
  ];
  findings.push(await checkFile(files, subnetFile, lines));
  if (dockerOptsFile !== undefined && ipv4 !== undefined)
    findings.push(await checkFile(files, dockerOptsFile, [`--bip=${bridgeAddress(ipv4)}`]));
  return findings;
}

async function checkFile(files: Files, path: string, parts: readonly string[]): Promise<Finding> {
  let text: string | undefined;
  try {
    text = await files.readText(path);
  } catch (error) {
    return failed(`${path} cannot be read`, error);
  }
  const remedy = 'Start or restart the daemon, which writes it.';
  if (text === undefined) return problem(`${path} is missing`, remedy);
  const lacking = parts.filter((part) => !text.includes(part));
  return lacking.length === 0
    ? ok(`${path} fits the lease`)
    : problem(`${path} does not fit the lease: it lacks ${lacking.join(' and ')}`, remedy);
}

/** Docker's bridge keeps the address it was made with until Docker is started anew (flannel #195). */
export function checkBridge({ links, addresses }: HostFacts, subnet: Subnet): Finding {
  const bridge = links.find(({ name }) => name === bridgeName);
  if (bridge === undefined) return note('there is no docker0: Docker does not run, or uses another bridge');
  const held = addresses.filter(({ family, linkIndex }) => family === 4 && linkIndex === bridge.index);
  if (held.some(({ address, prefixLength }) => `${address}/${prefixLength}` === bridgeAddress(subnet)))
    return ok(`docker0 has ${bridgeAddress(subnet)}`);
  const has =
    held.map(({ address, prefixLength }) => `${address}/${prefixLength}`).join(', ') || 'no address';
  return problem(
    `docker0 has ${has}, and not ${bridgeAddress(subnet)}: containers have addresses that nobody routes here`,
    'systemctl restart docker',
  );
}

/** A pool that overlaps a network of this host may cut it off, and keeps the daemon from starting. */
export function checkPools(
  facts: HostFacts,
  config: NetworkConfig,
  own: PerFamily<Subnet>,
  interfaceIndex: number,
): readonly Finding[] {
  return poolOverlaps({ ...facts, own: [own], interfaceIndex }, config).map((overlap) =>
    problem(overlap.problem, overlap.remedy),
  );
}
