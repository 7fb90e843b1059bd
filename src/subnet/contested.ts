import { excerpt } from '../runtime/excerpt.ts';
import { holderText } from './holder.ts';
import { familiesText, type LeaseOptions, type OwnLease } from './own-lease.ts';
import type { KeyValue } from './registry.ts';
import { parseSubnetKey } from './subnet-key.ts';

/** More of a key that somebody else has put is not logged. */
const longestKey = 160;

/** What there is to say when `kv`, another host's key, has our subnet. */
export function contestedReport(
  { registry, subnetsPrefix }: Pick<LeaseOptions, 'registry' | 'subnetsPrefix'>,
  { subnets }: OwnLease,
  kv: KeyValue,
): { readonly message: string; readonly fields: Readonly<Record<string, string>> } {
  const holder = holderText(kv.value);
  const key = excerpt(kv.key, longestKey);
  // What others have put there might be anything, a quote and a command of theirs included.
  const isPlain = parseSubnetKey(subnetsPrefix, kv.key) !== undefined;
  const remedy = isPlain ? `: etcdctl --endpoints=${registry.endpoint} del '${key}'` : ' delete that key';
  return {
    message:
      `subnet ${familiesText(subnets)} of this host now belongs to ${holder} (${key}): peers route it there. ` +
      `Stop one of the two hosts, or${remedy}. It is never overwritten here`,
    fields: { key, holder, endpoint: registry.endpoint },
  };
}
