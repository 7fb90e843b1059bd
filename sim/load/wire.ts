import type {
  Compare,
  KeyValue,
  Operation,
  RangeRequest,
  TxnRequest,
  TxnResponse,
  WatchEvent,
  WatchRequest,
} from '../../src/subnet/registry/registry.ts';

/*
 * How long etcd's messages are in protobuf, as etcd_network_client_grpc_sent_bytes_total counts them: without gRPC's own
 * five bytes and without HTTP/2. Ids of members, clusters and leases are taken for as long as they mostly are.
 */

/** Cluster, member, revision and term of every answer, with the field that they are in. */
const headerBytes = 28;
const idBytes = 10;
const flagBytes = 2;
/** Lease id and TTL: what is asked and told of a lease. */
const leaseBytes = idBytes + 4;

export const grantBytes = { request: leaseBytes, answer: headerBytes + leaseBytes } as const;
export const leaseIdBytes = { request: idBytes, answer: headerBytes + leaseBytes } as const;
export const revokeBytes = { request: idBytes, answer: headerBytes } as const;

function numberBytes(value: number): number {
  if (value === 0) return 0;
  let bytes = 2;
  for (let rest = value; rest >= 128; rest = Math.floor(rest / 128)) bytes += 1;
  return bytes;
}

/** A field with so many bytes in it; keys and values are ASCII. */
function field(length: number): number {
  return length === 0 ? 0 : 1 + (length < 128 ? 1 : length < 16_384 ? 2 : 3) + length;
}

function keyValueBytes({ key, value, createRevision, modRevision, lease }: KeyValue): number {
  const numbers = numberBytes(createRevision) + numberBytes(modRevision) + numberBytes(1);
  return field(field(key.length) + field(value.length) + numbers + (lease === '0' ? 0 : idBytes));
}

function listBytes(kvs: readonly KeyValue[]): number {
  let bytes = numberBytes(kvs.length);
  for (const kv of kvs) bytes += keyValueBytes(kv);
  return bytes;
}

/** The client sends limit and revision even when they are 0. */
export function rangeRequestBytes(request: RangeRequest): number {
  const { key, rangeEnd = '', limit = 0, revision = 0, keysOnly } = request;
  const numbers = Math.max(2, numberBytes(limit)) + Math.max(2, numberBytes(revision));
  return field(key.length) + field(rangeEnd.length) + numbers + (keysOnly === true ? flagBytes : 0);
}

/** Of one revision thousands of hosts get the same list. */
const known = new WeakMap<readonly KeyValue[], number>();

export function rangeAnswerBytes(kvs: readonly KeyValue[]): number {
  const bytes = known.get(kvs) ?? headerBytes + listBytes(kvs);
  known.set(kvs, bytes);
  return bytes;
}

export function txnRequestBytes({ compare, success, failure = [] }: TxnRequest): number {
  const compares = compare.map((one) => field(compareBytes(one)));
  return sum([...compares, ...[...success, ...failure].map((one) => field(field(operationBytes(one))))]);
}

export function txnAnswerBytes({ succeeded, ranges }: TxnResponse): number {
  return (
    headerBytes + (succeeded ? flagBytes : 0) + sum(ranges.map((kvs) => field(field(2 + listBytes(kvs)))))
  );
}

function compareBytes({ key, rangeEnd = '', value }: Compare): number {
  const compared = typeof value === 'number' ? 1 + numberBytes(value) : field(value.length);
  return 2 * flagBytes + field(key.length) + compared + field(rangeEnd.length);
}

function operationBytes(operation: Operation): number {
  const key = field(operation.key.length);
  if (operation.op === 'put') return key + field(operation.value.length) + idBytes;
  if (operation.op === 'delete') return key;
  const { rangeEnd = '', minModRevision = 0 } = operation;
  return key + field(rangeEnd.length) + numberBytes(minModRevision);
}

export function watchRequestBytes({ key, rangeEnd, startRevision = 0 }: WatchRequest): number {
  return field(field(key.length) + field(rangeEnd.length) + numberBytes(startRevision) + 2 * flagBytes);
}

/** That a watch is accepted, or that nothing has happened. */
export const watchAnswerBytes = headerBytes + flagBytes;

/** One message with these events. */
export function eventsBytes(events: readonly WatchEvent[]): number {
  return headerBytes + sum(events.map((event) => field(eventBytes(event))));
}

function eventBytes(event: WatchEvent): number {
  if (event.type === 'put') return keyValueBytes(event.kv);
  return flagBytes + field(field(event.key.length) + numberBytes(event.modRevision));
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}
