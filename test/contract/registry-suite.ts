import { expect } from 'vitest';
import {
  type KeyValue,
  type Operation,
  prefixEnd,
  type Registry,
  RegistryError,
  type WatchBatch,
} from '../../src/subnet/registry/registry.ts';

/** An etcd member, real or simulated, with what the suite has to do to it. */
export interface RegistryUnderTest {
  /** Deadline of calls: 1 s. */
  readonly registry: Registry;
  /** Another connection to the same member, for the one who is to be closed. */
  connect(): Registry;
  compact(revision: number): Promise<void>;
  /** The member stays connected and answers nothing. */
  freeze(): void;
  thaw(): void;
  /** How many watches the server has open. */
  watchers(): Promise<number>;
  /** Lets time pass until the promise settles. */
  settled<T>(promise: Promise<T>): Promise<T>;
  /** Lets time pass until the condition holds. */
  until(what: string, condition: () => Promise<boolean>): Promise<void>;
  close(): Promise<void>;
}

/** What a part of the suite is given: the subject (known once the suite runs) and key space of its own. */
export interface Suite {
  readonly subject: () => RegistryUnderTest;
  readonly registry: () => Registry;
  /** A prefix nothing was written under, ending in a slash. */
  readonly freshPrefix: () => string;
  /** Carries these out without a condition; resolves to the revision then. */
  readonly write: (...success: readonly Operation[]) => Promise<number>;
  /** The keys under a prefix, or the one key. */
  readonly read: (key: string) => Promise<readonly KeyValue[]>;
}

/** The RegistryError a promise rejects with; fails when it does not. */
export async function rejectionOf(promise: Promise<unknown>): Promise<RegistryError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(RegistryError);
  return error as RegistryError;
}

/** What a promise resolves to, or the RegistryError it rejects with; rejects with any other error. */
export async function outcomeOf<T>(promise: Promise<T>): Promise<T | RegistryError> {
  return await promise.catch((error: unknown) => {
    if (error instanceof RegistryError) return error;
    throw error;
  });
}

/** A put operation. */
export function put(key: string, value: string, lease = '0'): Operation {
  return { op: 'put', key, value, lease };
}

/** Carries these out without a condition; resolves to the revision then. */
export async function write(registry: Registry, ...success: readonly Operation[]): Promise<number> {
  return (await registry.txn({ compare: [], success })).header.revision;
}

/** Puts the keys one after another, each at a revision of its own; resolves to the last revision. */
export async function putAll(registry: Registry, entries: Readonly<Record<string, string>>): Promise<number> {
  let revision = 0;
  for (const [key, value] of Object.entries(entries)) revision = await write(registry, put(key, value));
  return revision;
}

/** Watches a prefix until `enough`; resolves to the messages seen. Whatever ends the watch before rejects. */
export async function collect(
  registry: Registry,
  prefix: string,
  startRevision: number | undefined,
  enough: (batches: readonly WatchBatch[]) => boolean,
  signal: AbortSignal = AbortSignal.timeout(30_000),
): Promise<readonly WatchBatch[]> {
  const batches: WatchBatch[] = [];
  const request = {
    key: prefix,
    rangeEnd: prefixEnd(prefix),
    ...(startRevision === undefined ? {} : { startRevision }),
  };
  for await (const batch of registry.watch(request, signal)) {
    batches.push(batch);
    if (enough(batches)) return batches;
  }
  throw new Error('a watch ended without an error');
}
