import { bridgeName } from '../../backend/hostgw/host-networks.ts';
import {
  bridgeAddress,
  containsAddress,
  containsSubnet,
  type PerFamily,
  parseSubnet,
  type Subnet,
} from '../../ip/ip.ts';
import type { Link, LinkAddress } from '../../kernel/kernel.ts';
import type { Files } from '../../runtime/effects.ts';
import { messageOf } from '../../runtime/errors.ts';
import { jsonFault } from '../../subnet/config/json-fault.ts';
import { type Finding, failed, note, ok, problem } from './finding.ts';

/** The input for the check of Docker's bridge. */
export interface BridgeFacts {
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  /** The MTU of the interface to the peers, if known. */
  readonly mtu: number | undefined;
}

/**
 * Docker's bridge keeps its address and MTU until Docker restarts (flannel #195). Docker 20.10 sets the MTU
 * with the first container, so a bridge without carrier is not checked for it.
 */
export function checkBridge(
  { links, addresses, mtu }: BridgeFacts,
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
        `${daemonJson} is not valid, so dockerd does not start: ${jsonFault(text)?.text ?? messageOf(error)}`,
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
