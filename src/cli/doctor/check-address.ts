import { ArpError } from '../../arp/arp.ts';
import {
  conflictRemedy,
  conflictText,
  isLinkDown,
  openStation,
  type StationOptions,
  unknownText,
} from '../../arp/station.ts';
import type { ChosenInterface } from '../this-host.ts';
import { type Finding, note, problem } from './finding.ts';

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
