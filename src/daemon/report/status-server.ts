import { chmodSync } from 'node:fs';
import { lstat, unlink } from 'node:fs/promises';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import type { PeerStatus, StatusView } from '../../cli/status-view.ts';
import { parseSubnet } from '../../ip/ip.ts';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Logger } from '../../runtime/effects.ts';
import { codeOf, FlannelError, messageOf, systemReason } from '../../runtime/errors.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { Wake } from '../../runtime/wake.ts';
import { makeFolders, nodeFiles } from '../host/files.ts';
import { VERSION } from '../options/command-line.ts';
import type { Snapshot } from '../state.ts';
import { checkIntervalMs, closeServer, keepServing, limitedServer, refusesMethod, sendBody } from './http.ts';

export interface StatusServerOptions {
  readonly path: string;
  readonly activity?: Activity;
  readonly clock: Clock;
  readonly log: Logger;
  /** Told of a socket that cannot be had. */
  readonly notices: TroubleLog;
  readonly snapshot: () => Snapshot;
}

/** What struct sockaddr_un holds; a longer path may be cut off in silence. */
const longestPathBytes = 107;

function whyNot(error: unknown): string {
  if (error instanceof SocketError) return error.message;
  return `${systemReason(error)}; choose another place for it with --status-socket=PATH`;
}

/** Why the socket cannot be had, when it is not the system that says so. */
class SocketError extends FlannelError {}

/**
 * Answers `flanneld-ts status` on a unix socket that nobody but root (the daemon's own user, that is) can open. What a daemon that was
 * killed has left there is replaced; the socket of one that lives, and a file that is no socket, are left alone.
 */
export class StatusServer {
  readonly #options: StatusServerOptions;

  constructor(options: StatusServerOptions) {
    this.#options = options;
  }

  /**
   * Serves until `signal` aborts, then resolves with the socket removed. One that cannot be had is a notice, and tried
   * again for ever. Never rejects.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { activity, clock, notices, path } = this.#options;
    const text = `flanneld-ts status at ${path}`;
    const served = { activity, clock, notices, what: 'status-socket', text, whyNot };
    await keepServing(served, signal, (onServing) => this.#serve(onServing, signal));
  }

  async #serve(onServing: () => void, signal: AbortSignal): Promise<void> {
    const { log, path } = this.#options;
    await makeRoom(path);
    const server = limitedServer(log, (request, response) => this.#answer(request, response));
    try {
      await listen(server, path);
      server.on('error', (error) =>
        log.warn({ event: 'status-error', error }, `Status server: ${messageOf(error)}`),
      );
      await this.#untilGone(onServing, signal);
    } finally {
      await closeServer(server);
    }
  }

  /** Resolves when nothing lies at the path any more, or `signal` aborts: whoever empties the folder must not take the socket for good. */
  async #untilGone(onServing: () => void, signal: AbortSignal): Promise<void> {
    const { clock, log, path } = this.#options;
    while (!signal.aborted) {
      onServing();
      const changed = new Wake();
      const stop = nodeFiles.watch(path, () => changed.wake());
      try {
        if (await isGone(path)) {
          const fields = { event: 'status-socket-gone', path };
          return log.warn(fields, `another program removed the status socket ${path}; making it again`);
        }
        await changed.waitAtMost(clock, checkIntervalMs, signal);
      } catch (error) {
        if (!signal.aborted) throw error;
      } finally {
        stop();
      }
    }
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const contentType = 'application/json';
    if (refusesMethod(request, response)) {
      sendBody(request, response, { status: 405, contentType, text: '{}\n' });
    } else if (request.url === '/status') {
      const view = statusView(this.#options.snapshot());
      sendBody(request, response, { status: 200, contentType, text: `${JSON.stringify(view)}\n` });
    } else {
      sendBody(request, response, { status: 404, contentType, text: '{}\n' });
    }
  }
}

/** The state as `flanneld-ts status` shows it. */
export function statusView(snapshot: Snapshot): StatusView {
  const { lease, nowMs, startedAtMs, syncedAtMs, troubles, reasons, ready, notices } = snapshot;
  const { summary, watching, leases, refused, degraded, junk } = snapshot;
  const peers = inOrder(snapshot.peers).map(
    ({ dst, gateway, state, reason, sinceMs, key }): PeerStatus => ({
      subnet: dst,
      gateway,
      state,
      reason: reason?.text ?? null,
      fault: reason?.fault ?? null,
      remedy: reason?.remedy ?? null,
      since: iso(sinceMs),
      key,
    }),
  );
  return {
    version: VERSION,
    startedAt: iso(startedAtMs),
    now: iso(nowMs),
    ready,
    summary,
    reasons,
    degraded,
    notices,
    lease: lease === undefined ? null : leaseStatus(lease, nowMs),
    watching,
    leases: leases ?? null,
    lastSync: syncedAtMs === undefined ? null : iso(syncedAtMs),
    peers,
    conflicts: peers.filter(({ state }) => state === 'conflict'),
    refused,
    outside: snapshot.outside.map(({ key, dst, network }) => ({ key, subnet: dst, network })),
    junk,
    errors: troubles.map(({ what, kind, message, sinceMs, overMs, attempts }) => ({
      what,
      kind,
      message,
      since: iso(sinceMs),
      over: overMs === undefined ? null : iso(overMs),
      attempts,
    })),
  };
}

/** By subnet, IPv4 first. */
function inOrder(peers: Snapshot['peers']): Snapshot['peers'] {
  const keyed = peers.map((peer) => ({ peer, subnet: parseSubnet(peer.dst) }));
  const compare = (a: bigint | number, b: bigint | number) => (a < b ? -1 : Number(a > b));
  return keyed
    .toSorted(
      ({ subnet: a }, { subnet: b }) =>
        compare(a?.family ?? 0, b?.family ?? 0) || compare(a?.first ?? 0n, b?.first ?? 0n),
    )
    .map(({ peer }) => peer);
}

function leaseStatus(
  { key, state, subnets, addresses, expiresAtMs }: NonNullable<Snapshot['lease']>,
  nowMs: number,
) {
  const secondsLeft = expiresAtMs === undefined ? null : Math.round((expiresAtMs - nowMs) / 1000);
  return { key, state, subnets, addresses, secondsLeft };
}

function iso(wallMs: number): string {
  return new Date(wallMs).toISOString();
}

/** Makes the folder, and takes away a socket that nobody listens at any more. */
async function makeRoom(path: string): Promise<void> {
  if (Buffer.byteLength(path) > longestPathBytes) {
    const message = `the path is longer than ${longestPathBytes} bytes; choose another --status-socket`;
    throw new SocketError('SOCKET_PATH', message);
  }
  await makeFolders(dirname(path));
  const there = await lstat(path).catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (there === undefined) return;
  if (!there.isSocket())
    throw new SocketError('SOCKET_PATH', 'a file lies there; choose another --status-socket');
  if (await isServed(path)) {
    const message = 'another program answers there, perhaps a daemon with the same --status-socket';
    throw new SocketError('SOCKET_TAKEN', message);
  }
  await unlink(path);
}

function isGone(path: string): Promise<boolean> {
  return lstat(path).then(
    () => false,
    (error: unknown) => codeOf(error) === 'ENOENT',
  );
}

function isServed(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const is = (served: boolean) => {
      socket.destroy();
      resolve(served);
    };
    socket.once('connect', () => is(true));
    socket.once('error', () => is(false));
  });
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
    // Bound by the call itself; until the next line the umask has kept others from writing to it, without which none connects.
    if (server.listening) chmodSync(path, 0o600);
  });
}
