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
import { plural } from '../../runtime/texts.ts';
import { jsonFault } from '../../subnet/config/json.ts';
import { type Finding, failed, note, ok, problem } from './finding.ts';

/** What of Docker is looked at. */
export interface DockerFacts {
  readonly files: Files;
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  /** The MTU that containers are to have; absent: not known. */
  readonly mtu?: number;
}

/**
 * Docker's bridge keeps address and MTU that it was made with until Docker is started anew (flannel #195). Docker 20.10 leaves
 * the MTU of a bridge without containers as it is, so only one with carrier is judged.
 */
export function checkBridge(
  { links, addresses, mtu }: DockerFacts,
  { ipv4, ipv6 }: PerFamily<Subnet>,
): readonly Finding[] {
  const bridge = links.find(({ name }) => name === bridgeName);
  if (bridge === undefined) return [note('there is no docker0: Docker does not run, or uses another bridge')];
  const heldOf = (wanted: Subnet) =>
    addresses
      .filter(
        ({ family, linkIndex, scope }) =>
          family === wanted.family && linkIndex === bridge.index && (family === 4 || scope === 'global'),
      )
      .map(({ address, prefixLength }) => `${address}/${prefixLength}`);
  const restart = 'systemctl restart docker';
  const findings: Finding[] = [];
  for (const wanted of [ipv4, ipv6]) {
    if (wanted === undefined) continue;
    const held = heldOf(wanted);
    const text = bridgeAddress(wanted);
    if (held.includes(text)) findings.push(ok(`docker0 has ${text}`));
    else if (wanted.family === 6 && held.length === 0)
      findings.push(
        note(
          'docker0 has no IPv6 address: containers have IPv4 alone',
          `Give dockerd --ipv6 --fixed-cidr-v6=${wanted.text}, then ${restart}`,
        ),
      );
    else
      findings.push(
        problem(
          `docker0 has ${held.join(', ') || 'no address'}, and not ${text}: containers have addresses that nobody routes here`,
          wanted.family === 4
            ? restart
            : `Give dockerd --ipv6 --fixed-cidr-v6=${wanted.text}, then ${restart}`,
        ),
      );
  }
  if (mtu !== undefined && bridge.carrier && bridge.mtu !== mtu) {
    const text = `docker0 has the MTU ${bridge.mtu}, and the interface to the other hosts ${mtu}`;
    const mend = `${restart}, then start the containers anew: they keep the MTU that they were made with.`;
    findings.push(
      bridge.mtu > mtu
        ? problem(`${text}: long packets of containers do not get through, or in pieces`, mend)
        : note(`${text}: containers send shorter packets than they could`, mend),
    );
  }
  return findings;
}

const daemonJson = '/etc/docker/daemon.json';
/** Flags in docker_opts.env; dockerd does not start when daemon.json has their keys as well, whatever the values. */
const flagKeys = ['bip', 'ip-masq', 'mtu'];
/** Flags in the command of our drop-in. */
const commandKeys = ['hosts', 'containerd'];
const dropIns = ['/etc', '/run', '/usr/local/lib', '/usr/lib', '/lib'].map(
  (folder) => `${folder}/systemd/system/docker.service.d/flannel.conf`,
);

/** Whether dockerd starts with daemon.json beside the flags that it gets from us (tried with 20.10). */
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
    return [note(`${daemonJson} is empty: Docker 20.10 does not start with it, newer versions do`, remedy)];
  }
  let keys: Readonly<Record<string, unknown>>;
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
      throw new Error('it is no JSON object');
    keys = parsed as Record<string, unknown>;
  } catch (error) {
    return [
      problem(
        `${daemonJson} is not valid, so dockerd does not start: ${jsonFault(text)?.message ?? messageOf(error)}`,
        `Correct it, or remove it. To look: dockerd --validate --config-file=${daemonJson} (Docker 23 and later)`,
      ),
    ];
  }
  const dropIn = await readDropIn(files);
  return [...conflicts(keys, dropIn), ...addressFindings(keys, own)];
}

/** The command that Docker gets its flags with from us; undefined when no drop-in of ours, or flannel's, is there. */
async function readDropIn(files: Files): Promise<string | undefined> {
  for (const path of dropIns) {
    const text = await files.readText(path).catch(() => undefined);
    if (text !== undefined) return text;
  }
  return undefined;
}

function conflicts(keys: Readonly<Record<string, unknown>>, dropIn: string | undefined): readonly Finding[] {
  const has = (key: string) => keys[key] !== undefined;
  const twice = [
    ...flagKeys.filter(has),
    ...(typeof keys['bridge'] === 'string' && keys['bridge'] !== '' ? ['bridge'] : []),
  ];
  const inCommand = commandKeys.filter(
    (key) =>
      has(key) &&
      new RegExp(
        key === 'hosts' ? '^ExecStart=.* (-H|--host)\\b' : '^ExecStart=.* --containerd\\b',
        'm',
      ).test(dropIn ?? ''),
  );
  const findings: Finding[] = [];
  if (twice.length > 0) {
    const text = `${daemonJson} has ${twice.join(', ')}, which Docker gets as ${plural(twice.length, 'a flag', 'flags')} from docker_opts.env: dockerd does not start with both`;
    const mend = `Remove ${twice.join(', ')} from ${daemonJson}.`;
    findings.push(
      dropIn === undefined ? note(`${text}, once its command has $DOCKER_OPTS`, mend) : problem(text, mend),
    );
  }
  if (inCommand.length > 0)
    findings.push(
      problem(
        `${daemonJson} has ${inCommand.join(', ')}, and so has the command in docker.service.d/flannel.conf (-H, --containerd): dockerd does not start with both`,
        `Remove ${inCommand.join(', ')} from ${daemonJson}, or give Docker a command without these flags, but with $DOCKER_OPTS, in a drop-in that sorts behind flannel.conf.`,
      ),
    );
  return findings;
}

function addressFindings(
  keys: Readonly<Record<string, unknown>>,
  { ipv4, ipv6 }: PerFamily<Subnet>,
): readonly Finding[] {
  const outside = (key: string, own: Subnet | undefined) => {
    const value = keys[key];
    if (typeof value !== 'string' || value === '' || own === undefined) return [];
    const subnet = parseSubnet(value);
    if (subnet === undefined ? containsAddress(own, value) : containsSubnet(own, subnet)) return [];
    return [
      problem(
        `${daemonJson} has "${key}": "${value}", which does not lie in this host's subnet ${own.text}`,
        `Remove ${key} from ${daemonJson}, then: systemctl restart docker`,
      ),
    ];
  };
  return [
    ...outside('fixed-cidr', ipv4),
    ...outside('default-gateway', ipv4),
    ...outside('fixed-cidr-v6', ipv6),
    ...outside('default-gateway-v6', ipv6),
  ];
}
