import {
  ArpError,
  conflictRemedy,
  conflictText,
  isLinkDown,
  openStation,
  type StationOptions,
  unknownText,
} from '../../arp/arp.ts';
import { bridgeName, cniBridgeName } from '../../backend/hostgw/host-networks.ts';
import type { KernelSnapshot } from '../../backend/hostgw/mirror.ts';
import {
  bridgeAddress,
  containsAddress,
  containsSubnet,
  type Family,
  type PerFamily,
  parseSubnet,
  type Subnet,
} from '../../ip/ip.ts';
import { forwarding, linkForwarding, type Sysctl } from '../../kernel/kernel.ts';
import type { Files } from '../../runtime/effects.ts';
import { messageOf, systemReason } from '../../runtime/errors.ts';
import { jsonFault } from '../../subnet/config/json.ts';
import type { ChosenInterface } from '../lease.ts';
import { type Finding, failed, note, ok, problem } from './finding.ts';

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
  const lines = { FLANNEL_SUBNET: bridge4, FLANNEL_IPV6_SUBNET: bridge6, FLANNEL_MTU: mtu };
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

/**
 * Docker's bridge keeps its address and MTU until Docker restarts (flannel #195). Docker 20.10 sets the MTU
 * with the first container, so a bridge without carrier is not checked for it. `mtu`: that of the interface to
 * the peers, if known.
 */
export function checkBridge(
  { links, addresses, mtu }: Omit<KernelSnapshot, 'routes'> & { readonly mtu: number | undefined },
  { ipv4, ipv6 }: PerFamily<Subnet>,
): readonly Finding[] {
  const bridge = links.find(({ name }) => name === bridgeName);
  if (bridge === undefined)
    return [note('docker0 does not exist: Docker does not run, or uses another bridge')];
  const restart = 'systemctl restart docker';
  const findings: Finding[] = [];
  for (const wanted of [ipv4, ipv6]) {
    if (wanted === undefined) continue;
    const held = addresses
      .filter(({ family, linkIndex }) => family === wanted.family && linkIndex === bridge.index)
      .filter(({ family, scope }) => family === 4 || scope === 'global')
      .map(({ address, prefixLength }) => `${address}/${prefixLength}`);
    const text = bridgeAddress(wanted);
    const flags = `Pass --ipv6 --fixed-cidr-v6=${wanted.text} to dockerd, then: ${restart}`;
    if (held.includes(text)) findings.push(ok(`docker0 has ${text}`));
    else if (wanted.family === 6 && held.length === 0)
      findings.push(note('docker0 has no IPv6 address: containers have IPv4 only', flags));
    else
      findings.push(
        problem(
          `docker0 has ${held.join(', ') || 'no address'} instead of ${text}: no host routes to its containers`,
          wanted.family === 4 ? restart : flags,
        ),
      );
  }
  if (mtu !== undefined && bridge.carrier && bridge.mtu !== mtu) {
    const text = `docker0 has the MTU ${bridge.mtu}, the interface to the other hosts ${mtu}`;
    const remedy = `${restart}, then restart the containers: they keep the MTU that they started with.`;
    findings.push(
      bridge.mtu > mtu
        ? problem(`${text}: long packets of containers are dropped or fragmented`, remedy)
        : note(`${text}: containers send smaller packets than the interface allows`, remedy),
    );
  }
  return findings;
}

const daemonJson = '/etc/docker/daemon.json';
/** Flags in docker_opts.env. dockerd does not start when daemon.json has one of these keys as well. */
const flagKeys = ['bip', 'ip-masq', 'mtu', 'bridge'];
/** Flags in the command of our drop-in. */
const commandKeys = {
  hosts: /^ExecStart=.* (-H|--host)\b/m,
  containerd: /^ExecStart=.* --containerd\b/m,
};
/** Our drop-in, or flannel's, gives Docker its command. */
const dropIns = ['/etc', '/run', '/usr/local/lib', '/usr/lib', '/lib'].map(
  (folder) => `${folder}/systemd/system/docker.service.d/flannel.conf`,
);

type Keys = Readonly<Record<string, unknown>>;

/** Whether dockerd starts with both daemon.json and our flags (tried with 20.10). */
export async function checkDaemonJson(files: Files, own: PerFamily<Subnet>): Promise<readonly Finding[]> {
  let text: string | undefined;
  try {
    text = await files.readText(daemonJson);
  } catch (error) {
    return [failed(`${daemonJson} cannot be read`, error)];
  }
  if (text === undefined) return [];
  if (text.trim() === '') {
    const remedy = `Remove it, or: echo '{}' >${daemonJson}`;
    return [note(`${daemonJson} is empty: Docker 20.10 does not start with it; newer versions do`, remedy)];
  }
  let keys: unknown;
  try {
    keys = JSON.parse(text);
    if (typeof keys !== 'object' || keys === null || Array.isArray(keys))
      throw new Error('it is not a JSON object');
  } catch (error) {
    return [
      problem(
        `${daemonJson} is not valid, so dockerd does not start: ${jsonFault(text)?.message ?? messageOf(error)}`,
        `Correct or remove it. To check it: dockerd --validate --config-file=${daemonJson} (Docker 23 and later)`,
      ),
    ];
  }
  const read = await Promise.all(dropIns.map((path) => files.readText(path).catch(() => undefined)));
  const dropIn = read.find((found) => found !== undefined);
  return [...conflicts(keys as Keys, dropIn), ...addressFindings(keys as Keys, own)];
}

function conflicts(keys: Keys, dropIn: string | undefined): readonly Finding[] {
  const isGiven = (key: string) => keys[key] !== undefined && (key !== 'bridge' || keys[key] !== '');
  const twice = flagKeys.filter(isGiven).join(', ');
  const inCommand = Object.entries(commandKeys)
    .filter(([key, flag]) => isGiven(key) && flag.test(dropIn ?? ''))
    .map(([key]) => key)
    .join(', ');
  const findings: Finding[] = [];
  if (twice !== '') {
    const text = `${daemonJson} has ${twice}, which docker_opts.env passes as ${twice.includes(',') ? 'flags' : 'a flag'}: dockerd does not start with both`;
    const remedy = `Remove ${twice} from ${daemonJson}.`;
    findings.push(
      dropIn === undefined
        ? note(`${text}, once its command uses $DOCKER_OPTS`, remedy)
        : problem(text, remedy),
    );
  }
  if (inCommand !== '')
    findings.push(
      problem(
        `${daemonJson} has ${inCommand}, and so has the command in docker.service.d/flannel.conf (-H, --containerd): dockerd does not start with both`,
        `Remove ${inCommand} from ${daemonJson}, or give Docker a command without these flags, but with $DOCKER_OPTS, in a drop-in that sorts after flannel.conf.`,
      ),
    );
  return findings;
}

function addressFindings(keys: Keys, { ipv4, ipv6 }: PerFamily<Subnet>): readonly Finding[] {
  const wanted = {
    'fixed-cidr': ipv4,
    'default-gateway': ipv4,
    'fixed-cidr-v6': ipv6,
    'default-gateway-v6': ipv6,
  };
  return Object.entries(wanted).flatMap(([key, own]) => {
    const value = keys[key];
    if (typeof value !== 'string' || value === '' || own === undefined) return [];
    const subnet = parseSubnet(value);
    if (subnet === undefined ? containsAddress(own, value) : containsSubnet(own, subnet)) return [];
    return [
      problem(
        `${daemonJson} has "${key}": "${value}", which is outside this host's subnet ${own.text}`,
        `Remove ${key} from ${daemonJson}, then: systemctl restart docker`,
      ),
    ];
  });
}
