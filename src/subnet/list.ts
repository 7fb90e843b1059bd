import { type KeyValue, prefixEnd, type Registry, RegistryError, type ResponseHeader } from './registry.ts';

/** 20,000 leases are some 9 MB: far below the 64 MiB a gRPC message may hold, and 65,536 hosts need but four calls. */
const pageSize = 20_000;

/** How often a list is started over because its revision was compacted between two pages. */
const attempts = 3;

/**
 * All keys under `prefix` as of one revision, in byte order. Pages are read at the revision of the first; when that one is
 * compacted meanwhile the list starts over, a few times. Rejects with RegistryError; an error is never an empty list.
 */
export async function listRange(
  registry: Registry,
  prefix: string,
  signal: AbortSignal,
): Promise<{ readonly kvs: readonly KeyValue[]; readonly header: ResponseHeader }> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await readPages(registry, prefix, signal);
    } catch (error) {
      const compacted = error instanceof RegistryError && error.kind === 'COMPACTED';
      if (!compacted || attempt === attempts) throw error;
    }
  }
}

async function readPages(registry: Registry, prefix: string, signal: AbortSignal) {
  const rangeEnd = prefixEnd(prefix);
  const first = await registry.range({ key: prefix, rangeEnd, limit: pageSize }, signal);
  const { revision } = first.header;
  const kvs = [...first.kvs];
  for (let page = first; page.more; kvs.push(...page.kvs)) {
    const last = page.kvs.at(-1);
    if (last === undefined)
      throw new RegistryError('PROTOCOL', registry.endpoint, 'etcd announced more keys but sent none');
    // The key after a key is that key with a NUL byte behind it.
    page = await registry.range({ key: `${last.key}\0`, rangeEnd, limit: pageSize, revision }, signal);
  }
  return { kvs, header: first.header };
}
