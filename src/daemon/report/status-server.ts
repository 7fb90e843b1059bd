import { once } from 'node:events';
import { chmodSync, type Stats } from 'node:fs';
import { lstat, unlink } from 'node:fs/promises';
import type { Server } from 'node:http';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import type { PeerStatus, StatusView } from '../../cli/ask-daemon.ts';
import { parseSubnet } from '../../ip/ip.ts';
import { codeOf, FlannelError, systemReason } from '../../runtime/errors.ts';
import { Wake } from '../../runtime/wake.ts';
import { makeFolders, nodeFiles } from '../host/files.ts';
import { VERSION } from '../options/command-line.ts';
import type { Snapshot } from '../state.ts';
import { checkIntervalMs, keepServing, refusesMethod, type ServerOptions, sendBody } from './http.ts';

export interface StatusServerOptions extends ServerOptions {
  readonly path: string;
  readonly snapshot: () => Snapshot;
}

/** The limit of struct sockaddr_un. The C library may cut a longer path without an error. */
const longestPathBytes = 107;

/** Why the daemon does not use a path for the socket. */
class SocketError extends FlannelError {}

/**
 * Answers `flanneld-ts status` until `signal` aborts, then resolves with the socket removed; never rejects.
 * Only the daemon's user, root, can open the unix socket. It replaces the socket of a killed daemon, but not
 * that of a running one, nor a file. While it cannot create the socket there is a notice.
 */
export async function runStatusServer(options: StatusServerOptions, signal: AbortSignal): Promise<void> {
  const { path, snapshot } = options;
  await keepServing(
    {
      ...options,
      what: 'status-socket',
      text: `flanneld-ts status at ${path}`,
      errorEvent: 'status-error',
      answer: (request, response) => {
        const isRefused = refusesMethod(response);
        const isFound = !isRefused && request.url === '/status';
        sendBody(response, {
          status: isRefused ? 405 : isFound ? 200 : 404,
          contentType: 'application/json',
          text: `${isFound ? JSON.stringify(statusView(snapshot())) : '{}'}\n`,
        });
      },
      listen: (server) => listen(server, path),
      whyNot: (error) =>
        error instanceof SocketError
          ? error.message
          : `${systemReason(error)}; choose another place for it with --status-socket=PATH`,
      look: () => isStillThere(options, signal),
    },
    signal,
  );
}

/** Another program may empty the folder, so it looks at each change there and every ten seconds. */
async function isStillThere(
  { clock, log, path }: StatusServerOptions,
  signal: AbortSignal,
): Promise<boolean> {
  const changed = new Wake();
  const stop = nodeFiles.watch(path, () => changed.wake());
  try {
    if ((await lookAt(path).catch(() => true)) !== undefined) {
      await changed.waitAtMost(clock, checkIntervalMs, signal);
      return true;
    }
    const fields = { event: 'status-socket-gone', path };
    log.warn(fields, `another program removed the status socket ${path}; recreating it`);
    return false;
  } finally {
    stop();
  }
}

/** The state as `flanneld-ts status` shows it. */
export function statusView(snapshot: Snapshot): StatusView {
  const { lease, nowMs, startedAtMs, syncedAtMs, ready, summary, watching, leases } = snapshot;
  const { reasons, degraded, notices, refused, junk, outside, troubles } = snapshot;
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
    outside: outside.map(({ key, dst, network }) => ({ key, subnet: dst, network })),
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
  const keyed = peers.map((peer) => {
    const { family, first } = parseSubnet(peer.dst) ?? { family: 0, first: 0n };
    return { peer, family, first };
  });
  return keyed
    .toSorted((a, b) => a.family - b.family || (a.first < b.first ? -1 : Number(a.first > b.first)))
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

/** Undefined: nothing lies there. */
function lookAt(path: string): Promise<Stats | undefined> {
  return lstat(path).catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  });
}

/** Creates the folder, and removes a socket without a listener. */
async function makeRoom(path: string): Promise<void> {
  if (Buffer.byteLength(path) > longestPathBytes) {
    const message = `the path is longer than ${longestPathBytes} bytes; choose another --status-socket`;
    throw new SocketError('SOCKET_PATH', message);
  }
  await makeFolders(dirname(path));
  const there = await lookAt(path);
  if (there === undefined) return;
  if (!there.isSocket())
    throw new SocketError('SOCKET_PATH', 'the path is a file; choose another --status-socket');
  if (await isServed(path)) {
    const message = 'another program answers there, perhaps a daemon with the same --status-socket';
    throw new SocketError('SOCKET_TAKEN', message);
  }
  await unlink(path);
}

async function isServed(path: string): Promise<boolean> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

async function listen(server: Server, path: string): Promise<void> {
  await makeRoom(path);
  server.listen(path);
  // listen() binds at once. Until the next line, the umask keeps other users from connecting.
  if (server.listening) chmodSync(path, 0o600);
  await once(server, 'listening');
}
