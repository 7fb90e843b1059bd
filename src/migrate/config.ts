import { isDeepStrictEqual } from 'node:util';
import { explanationOf } from '../runtime/errors.ts';
import { type NetworkConfig, NetworkConfigError, parseNetworkConfig } from '../subnet/config/config.ts';
import { configChanges } from '../subnet/config/watch.ts';

/**
 * What becomes of the network configuration.
 * - copied: v3 has none, and the daemon can use the one of v2.
 * - there: both are the same. missing: v2 has none. Nothing is to be done.
 * - differs: they are not the same; refused: the daemon cannot use the one of v2. Neither is touched.
 */
export interface ConfigOutcome {
  readonly what: 'copied' | 'there' | 'missing' | 'differs' | 'refused';
  /** May be empty. */
  readonly why: string;
  /** Hosts cannot use v3 as it is, or would use it differently. */
  readonly needsOperator: boolean;
}

/**
 * Judges the configurations of both stores, undefined where there is none. They are the same when they are so as JSON, whatever the
 * order of their keys. The daemon's own parser says what it can use.
 */
export function judgeConfig(v2: string | undefined, v3: string | undefined): ConfigOutcome {
  const ofV3 = v3 === undefined ? undefined : parsed(v3);
  const refusal = ofV3 !== undefined && 'refusal' in ofV3 ? `the daemon cannot use it: ${ofV3.refusal}` : '';
  if (v2 === undefined) {
    const why = v3 === undefined ? 'neither store has one' : `v2 has none, v3 has one. ${refusal}`.trim();
    return { what: 'missing', why, needsOperator: v3 === undefined || refusal !== '' };
  }
  const ofV2 = parsed(v2);
  if (ofV3 === undefined) {
    if ('config' in ofV2)
      return { what: 'copied', why: ofV2.config.warnings.join('; '), needsOperator: false };
    return { what: 'refused', why: `the daemon cannot use it: ${ofV2.refusal}`, needsOperator: true };
  }
  if (v2 === v3 || isDeepStrictEqual(valueOf(v2), valueOf(v3 ?? '')))
    return { what: 'there', why: refusal, needsOperator: refusal !== '' };
  return { what: 'differs', why: differenceOf(ofV2, ofV3), needsOperator: true };
}

type Parsed = { readonly config: NetworkConfig } | { readonly refusal: string };

function parsed(text: string): Parsed {
  try {
    return { config: parseNetworkConfig(text) };
  } catch (error) {
    if (!(error instanceof NetworkConfigError)) throw error;
    return { refusal: explanationOf(error) };
  }
}

/** The text itself when it is no JSON. */
function valueOf(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

function differenceOf(v2: Parsed, v3: Parsed): string {
  const refusals = [
    'refusal' in v2 && `the daemon cannot use the one of v2: ${v2.refusal}`,
    'refusal' in v3 && `the daemon cannot use the one of v3: ${v3.refusal}`,
  ].filter((text) => text !== false);
  if ('refusal' in v2 || 'refusal' in v3) return refusals.join(' ');
  const changes = configChanges(v2.config, v3.config);
  if (changes.length === 0) return 'they differ in what the daemon does not use';
  return `from v2 to v3: ${changes.join(', ')}`;
}
