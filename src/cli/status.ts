import { stat } from 'node:fs/promises';
import type { Clock } from '../runtime/clock.ts';
import { codeOf, messageOf } from '../runtime/errors.ts';
import { escapeControls, oneLine } from '../runtime/escape.ts';
import { ask } from './ask.ts';
import { statusText } from './status-text.ts';
import type { StatusView } from './status-view.ts';

export interface StatusParts {
  /** Where the daemon listens. */
  readonly socketPath: string;
  readonly json: boolean;
  /** Ask again and again. */
  readonly watch: boolean;
  readonly clock: Clock;
  readonly out: (text: string) => void;
  readonly err: (line: string) => void;
  /** Whether what was shown before is to be wiped off. */
  readonly onTerminal: boolean;
}

/** 0 ready, 1 no answer, 3 ready and degraded by a peer, 4 not ready. */
export type StatusCode = 0 | 1 | 3 | 4;

const watchIntervalMs = 2_000;
/** Ten thousand peers are three megabytes. */
const longestAnswer = 64 << 20;
const longestReason = 500;
const wipe = '\u001b[H\u001b[2J\u001b[3J';

/**
 * Asks the daemon of this host how it does, prints the answer, and resolves to the exit code. With
 * `watch` until `signal` aborts, then rejects with its reason.
 */
export async function runStatus(parts: StatusParts, signal: AbortSignal): Promise<StatusCode> {
  if (!parts.watch) return await showOnce(parts, '');
  for (;;) {
    await showOnce(parts, parts.onTerminal && !parts.json ? wipe : '');
    await parts.clock.sleep(watchIntervalMs, signal);
  }
}

async function showOnce({ socketPath, json, out, err }: StatusParts, before: string): Promise<StatusCode> {
  const answer = await fetchStatus(socketPath, 'status');
  if ('view' in answer) {
    const { view } = answer;
    out(`${before}${json ? escapeControls(JSON.stringify(view)) : statusText(view)}\n`);
    return view.ready ? (view.degraded.length === 0 ? 0 : 3) : 4;
  }
  if (json) out(`${escapeControls(JSON.stringify({ error: answer.silent }))}\n`);
  else err(before + answer.silent);
  return 1;
}

/** The daemon's answer, or why there is none, in sentences for the operator; `absent`: nobody listens there. */
export type StatusAnswer =
  | { readonly view: StatusView }
  | { readonly silent: string; readonly absent: boolean };

/** Asks the daemon. `command`: who asks, for the operator who has to ask again. */
export async function fetchStatus(socketPath: string, command: string): Promise<StatusAnswer> {
  try {
    return { view: parseView(await askStatus(socketPath)) };
  } catch (error) {
    if (await isAbsent(socketPath, error)) return { silent: oneLine(nobody(socketPath)), absent: true };
    return { silent: oneLine(whyNot(socketPath, command, error)), absent: false };
  }
}

/** The daemon may be of another version: what is no answer of any is told from one. */
function parseView(text: string): StatusView {
  const view: unknown = JSON.parse(text);
  if (typeof view !== 'object' || view === null || !('peers' in view) || !Array.isArray(view.peers))
    throw new SyntaxError('no status');
  // That of an older daemon has no faults of peers.
  return { degraded: [], ...view } as unknown as StatusView;
}

async function askStatus(socketPath: string): Promise<string> {
  const { status, text } = await ask({ socketPath }, '/status', longestAnswer);
  if (status === 500) throw new Error(text.slice(0, longestReason));
  if (text.length > longestAnswer) throw new Error('its answer has no end');
  return text;
}

function isRefused(error: unknown): boolean {
  return ['ENOENT', 'ECONNREFUSED'].includes(codeOf(error) ?? '');
}

async function isAbsent(path: string, error: unknown): Promise<boolean> {
  if (!isRefused(error)) return false;
  const there = await stat(path).catch(() => undefined);
  return there === undefined || there.isSocket();
}

function nobody(path: string): string {
  return (
    `No daemon answers at ${path}. Is it running? systemctl status flanneld. ` +
    'If it was started with another --subnet-file or --status-socket, pass the same flag.'
  );
}

function whyNot(path: string, command: string, error: unknown): string {
  const code = codeOf(error);
  if (code === 'EACCES') return `Only root may read the daemon's status: sudo flanneld-ts ${command}`;
  if (isRefused(error)) return `${path} is not a socket`;
  // Node's HTTP parser names what it cannot read HPE_….
  if (error instanceof SyntaxError || code?.startsWith('HPE_'))
    return `What answers at ${path} is no flanneld-ts`;
  return `The daemon at ${path} gives no status: ${messageOf(error)}`;
}
