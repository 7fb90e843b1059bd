import { type KeyValue, prefixEnd, type Registry, RegistryError, type ResponseHeader } from './registry.ts';

/** 20,000 leases are some 9 MB: far below the 64 MiB a gRPC message may hold, and 65,536 hosts need but four calls. */
const pageSize = 20_000;

/**
 * All keys under `prefix` as of one revision, in byte order. Pages are read at the revision of the first; when that one is
 * compacted meanwhile the list starts over. Rejects with RegistryError; an error is never an empty list.
 */
export async function listRange(
  registry: Registry,
  prefix: string,
  signal: AbortSignal,
): Promise<{ readonly kvs: readonly KeyValue[]; readonly header: ResponseHeader }> {
  for (;;) {
    try {
      return await readPages(registry, prefix, signal);
    } catch (error) {
      if (!(error instanceof RegistryError && error.kind === 'COMPACTED')) throw error;
    }
  }
}

async function readPages(registry: Registry, prefix: string, signal: AbortSignal) {
  const rangeEnd = prefixEnd(prefix);
  const first = await registry.range({ key: prefix, rangeEnd, limit: pageSize }, signal);
  const kvs = [...first.kvs];
  let more = first.more;
  while (more) {
    const last = kvs.at(-1);
    if (last === undefined)
      throw new RegistryError('PROTOCOL', registry.endpoint, 'etcd announced more keys but sent none');
    // The key after a key is that key with a NUL byte behind it.
    const key = `${last.key}\0`;
    const page = await registry.range(
      { key, rangeEnd, limit: pageSize, revision: first.header.revision },
      signal,
    );
    kvs.push(...page.kvs);
    more = page.more;
  }
  return { kvs, header: first.header };
}
