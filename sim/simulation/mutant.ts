import { altered } from '../altered.ts';
import type { SimHost, Wrappers } from '../host.ts';

/** A part broken on purpose, anew for each run. */
export type Mutant = () => Wrappers;

type Parts = { readonly [Name in keyof Wrappers]-?: Parameters<NonNullable<Wrappers[Name]>>[0] };

/** Replaces methods of each host's part. */
export function broken<Name extends keyof Wrappers>(
  name: Name,
  change: (inner: Parts[Name], host: SimHost) => Partial<Parts[Name]>,
): Mutant {
  return () => ({ [name]: (inner: Parts[Name], host: SimHost) => altered(inner, change(inner, host)) });
}
