import { bridgeAddress, type Subnet } from '../ip/ip.ts';

export interface DockerOptions {
  /** This host's IPv4 subnet; absent when IPv4 is off: Docker then takes a bridge address of its own choice. */
  readonly subnet?: Subnet;
  readonly mtu: number;
  /** Whether we masquerade; docker then must not. */
  readonly ipMasq: boolean;
  /** Name of the variable. */
  readonly key: string;
}

/** The bytes `mk-docker-opts.sh -c -k KEY` writes for this host: one variable with all of dockerd's options, a space in front. */
export function renderDockerOpts({ subnet, mtu, ipMasq, key }: DockerOptions): string {
  const options = [
    ...(subnet === undefined ? [] : [`--bip=${bridgeAddress(subnet)}`]),
    `--ip-masq=${!ipMasq}`,
    `--mtu=${mtu}`,
  ];
  return `${key}=" ${options.join(' ')}"\n`;
}
