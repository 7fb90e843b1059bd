import { FirewallError } from './tool.ts';

/** How often what was written may be gone again before that is a failure: others write the same tables. */
const mostAttempts = 3;

/** A part of the kernel's rules that is read as a whole and changed by one input for a tool. */
export interface RuleStore<T> {
  read(signal: AbortSignal): Promise<T>;
  /** The input that makes what was read right; undefined when it is right. */
  plan(found: T): string | undefined;
  write(input: string, signal: AbortSignal): Promise<void>;
}

/**
 * Reads, and writes only when something differs, then reads again: what a tool accepts without a word is not always there
 * afterwards. Resolves to whether anything was written. A refusal is final when the next look gives the same plan; otherwise
 * another program was faster, and the new plan is tried. Rejects with what the tool said.
 */
export async function converge<T>(store: RuleStore<T>, signal: AbortSignal): Promise<boolean> {
  let input = store.plan(await store.read(signal));
  if (input === undefined) return false;
  for (let attempt = 1; attempt <= mostAttempts; attempt++) {
    let refusal: { readonly error: unknown } | undefined;
    try {
      await store.write(input, signal);
    } catch (error) {
      signal.throwIfAborted();
      refusal = { error };
    }
    const next = store.plan(await store.read(signal));
    if (next === undefined) return true;
    if (refusal !== undefined && next === input) throw refusal.error;
    input = next;
  }
  throw new FirewallError(
    'FIREWALL_REFUSED',
    'the firewall rules are gone or changed right after they were written',
    {
      remedy: 'Find the program that changes them (nft monitor).',
    },
  );
}
