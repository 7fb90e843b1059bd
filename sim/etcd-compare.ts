import type { Compare, KeyValue } from '../src/subnet/registry/registry.ts';
import { compareBytes } from './etcd-keys.ts';

/** A key with the number of writes since it was created. */
export type Versioned = KeyValue & { readonly version: number };

const missing: Versioned = { key: '', value: '', createRevision: 0, modRevision: 0, version: 0, lease: '0' };

/** Whether a compare holds for what its key or range contains. */
export function holds(compare: Compare, found: readonly Versioned[]): boolean {
  // etcd compares an absent key, or an empty range, as a key whose numbers are all 0; a value never equals nothing.
  if (found.length === 0) return compare.target !== 'value' && compareOne(compare, missing);
  return found.every((kv) => compareOne(compare, kv));
}

const operators: Readonly<Record<Compare['op'], (order: number) => boolean>> = {
  '=': (order) => order === 0,
  '!=': (order) => order !== 0,
  '<': (order) => order < 0,
  '>': (order) => order > 0,
};

function compareOne(compare: Compare, kv: Versioned): boolean {
  return operators[compare.op](orderOf(compare, kv));
}

function orderOf(compare: Compare, kv: Versioned): number {
  switch (compare.target) {
    case 'create':
    case 'mod':
      return kv[`${compare.target}Revision`] - compare.value;
    case 'version':
      return kv.version - compare.value;
    case 'value':
      return compareBytes(kv.value, compare.value);
    case 'lease':
      return Number(BigInt(kv.lease) - BigInt(compare.value));
  }
}
