import type { ICompare, IEvent, IKeyValue, IRequestOp, IResponseHeader, IWatchResponse } from 'etcd3';
import type {
  Compare,
  KeyValue,
  Operation,
  ResponseHeader,
  WatchBatch,
  WatchEvent,
} from '../registry/registry.ts';

/** Text to etcd's bytes. */
export function bytes(text: string): Buffer {
  return Buffer.from(text, 'utf8');
}

/** `{ key, range_end }` of a request; without an end only the key itself. */
export function keyRange(key: string, rangeEnd: string | undefined): { key: Buffer; range_end?: Buffer } {
  return rangeEnd === undefined ? { key: bytes(key) } : { key: bytes(key), range_end: bytes(rangeEnd) };
}

const results = { '=': 'Equal', '<': 'Less', '>': 'Greater', '!=': 'NotEqual' } as const;

export function toCompare(compare: Compare): ICompare {
  const common = { ...keyRange(compare.key, compare.rangeEnd), result: results[compare.op] };
  switch (compare.target) {
    case 'create':
      return { ...common, target: 'Create', create_revision: compare.value };
    case 'mod':
      return { ...common, target: 'Mod', mod_revision: compare.value };
    case 'version':
      return { ...common, target: 'Version', version: compare.value };
    case 'value':
      return { ...common, target: 'Value', value: bytes(compare.value) };
    case 'lease':
      return { ...common, target: 'Lease', lease: compare.value };
  }
}

export function toRequestOp(operation: Operation): IRequestOp {
  switch (operation.op) {
    case 'put':
      return {
        request_put: { key: bytes(operation.key), value: bytes(operation.value), lease: operation.lease },
      };
    case 'delete':
      return { request_delete_range: { key: bytes(operation.key) } };
    case 'range': {
      const { key, rangeEnd, minModRevision } = operation;
      const since = minModRevision === undefined ? {} : { min_mod_revision: minModRevision };
      return { request_range: { ...keyRange(key, rangeEnd), ...since } };
    }
  }
}

export function fromHeader(header: IResponseHeader): ResponseHeader {
  return { clusterId: header.cluster_id, revision: Number(header.revision) };
}

export function fromKeyValue(kv: IKeyValue): KeyValue {
  return {
    key: kv.key.toString('utf8'),
    value: kv.value.toString('utf8'),
    createRevision: Number(kv.create_revision),
    modRevision: Number(kv.mod_revision),
    lease: kv.lease,
  };
}

export function fromWatchResponse(response: IWatchResponse): WatchBatch {
  const kind = response.created ? 'created' : response.events.length === 0 ? 'progress' : 'events';
  return {
    header: fromHeader(response.header),
    events: response.events.map(fromEvent),
    fragment: response.fragment,
    kind: kind === 'progress' && response.fragment ? 'events' : kind,
  };
}

function fromEvent(event: IEvent): WatchEvent {
  if (event.type === 'Put') return { type: 'put', kv: fromKeyValue(event.kv) };
  return { type: 'delete', key: event.kv.key.toString('utf8'), modRevision: Number(event.kv.mod_revision) };
}
