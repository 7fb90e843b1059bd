import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { KernelError } from '../../src/kernel/kernel.ts';
import { isBug } from '../../src/runtime/errors.ts';
import { RegistryError } from '../../src/subnet/registry/registry.ts';

/** What `call` really throws. */
async function thrownBy(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was thrown');
}

const missing: { readonly inner?: { readonly value: number } } = {};

describe('isBug', () => {
  it.each([
    ['a member of what is not there', () => (missing.inner as { value: number }).value],
    ['an argument out of range', () => ''.repeat(-1)],
    ['text that is no JSON', () => JSON.parse('{')],
    ['a wrong argument of a Node function', () => Buffer.alloc(-1)],
  ])('sees %s', async (_name, call) => {
    expect(isBug(await thrownBy(call))).toBe(true);
  });

  it('sees one that a registry error wraps', () => {
    const cause = new TypeError('value is not iterable');
    expect(isBug(new RegistryError('UNAVAILABLE', 'http://a:2379', 'etcd failed', { cause }))).toBe(true);
  });

  it('ends at a chain of causes that is a ring', () => {
    const error = new Error('one');
    error.cause = new Error('two', { cause: error });
    expect(isBug(error)).toBe(false);
  });

  it.each([
    ['a file that is not there', () => readFile('/no/such/file')],
    ['an address that is none of ours', () => Promise.reject(new KernelError('ENETUNREACH', 'refused'))],
    ['an aborted wait', () => AbortSignal.abort().throwIfAborted()],
    ['a text', () => Promise.reject('no error at all')],
  ])('leaves %s to be tried again', async (_name, call) => {
    expect(isBug(await thrownBy(call))).toBe(false);
  });
});
