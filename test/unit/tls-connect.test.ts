import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { createSecureContext } from 'node:tls';
import { expect, it, onTestFinished } from 'vitest';
import { TlsCredentials } from '../../src/subnet/etcd/tls-connect.ts';

it('a connection that is reset while the certificate files are read fails its handshake, and nothing else', async () => {
  const server = createServer((socket) => void setTimeout(() => socket.resetAndDestroy(), 50)).listen(
    0,
    '127.0.0.1',
  );
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const credentials = new TlsCredentials('127.0.0.1', async () => {
    await sleep(200);
    return createSecureContext();
  });
  const connector = credentials._createSecureConnector();
  onTestFinished(() => connector.destroy());
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  await expect(connector.connect(socket)).rejects.toThrow('TLS handshake: ECONNRESET');
});
