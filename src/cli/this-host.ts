import { type Family, familiesOf, type PerFamily } from '../ip/ip.ts';
import { explanationOf } from '../runtime/errors.ts';
import { type NetworkConfig, NetworkConfigError, parseNetworkConfig } from '../subnet/config/config.ts';
import { describeMissing, type Stores } from '../subnet/config/source.ts';
import { configKey } from '../subnet/keys.ts';
import { RegistryError } from '../subnet/registry/registry.ts';

/** The interface that the daemon would use, as it chooses it. */
export interface ChosenInterface {
  readonly name: string;
  readonly index: number;
  readonly addresses: PerFamily<string>;
}

/** Chooses it by the flags given, with an address of each of these families; a text says why there is none. */
export type ChooseInterface = (
  families: readonly Family[],
  signal: AbortSignal,
) => Promise<ChosenInterface | string>;

export interface ThisHost extends Stores {
  readonly etcdPrefix: string;
  readonly chooseInterface: ChooseInterface;
}

/** Of no use when it is etcd that does not answer. */
const hint = 'A lease can be named, too: lease release SUBNET, or --public-ip=ADDRESS';

/**
 * The addresses that this host's lease carries: those its daemon would choose, of the families that the network has, and no
 * others: by another one a lease of another host might be found. A text says why they cannot be told. Rejects with
 * RegistryError and with `signal.reason`.
 */
export async function addressesOfThisHost(
  host: ThisHost,
  signal: AbortSignal,
): Promise<PerFamily<string> | string> {
  try {
    const config = await readConfig(host, signal);
    if (typeof config === 'string') return `${config}\n${hint}`;
    const chosen = await host.chooseInterface(familiesOf(config), signal);
    return typeof chosen === 'string' ? `${chosen}\n${hint}` : chosen.addresses;
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof RegistryError) throw error;
    const reason = explanationOf(error);
    return error instanceof NetworkConfigError
      ? `the network configuration at ${configKey(host.etcdPrefix)} cannot be used: ${reason}\n${hint}`
      : `${reason}\n${hint}`;
  }
}

async function readConfig(host: ThisHost, signal: AbortSignal): Promise<NetworkConfig | string> {
  const key = configKey(host.etcdPrefix);
  const { kvs } = await host.registry.range({ key }, signal);
  const text = kvs[0]?.value;
  if (text === undefined) {
    const { problem, remedy } = await describeMissing(host, key, signal);
    return `${problem} ${remedy}`;
  }
  return parseNetworkConfig(text);
}
