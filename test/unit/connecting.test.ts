import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { createSecureContext } from 'node:tls';
import { expect, it, onTestFinished } from 'vitest';
import { Connecting, MemberCredentials } from '../../src/subnet/etcd/connecting.ts';

it('a connection that is reset while the certificate files are read fails its handshake, and nothing else', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const socket = connect(port, '127.0.0.1');
  const [[accepted]] = (await Promise.all([once(server, 'connection'), once(socket, 'connect')])) as [
    [Socket],
    unknown,
  ];
  // Not once(), which listens for errors too: nobody but the code under test may.
  const lost = new Promise((resolve) => socket.once('close', resolve));
  const connecting = new Connecting(`https://127.0.0.1:${port}`);
  const credentials = new MemberCredentials(connecting, async () => {
    // The files are being read; they have been once the connection is gone.
    accepted.resetAndDestroy();
    await lost;
    return createSecureContext();
  });
  const connector = credentials._createSecureConnector();
  onTestFinished(() => connector.destroy());
  await expect(connector.connect(socket)).rejects.toThrow('ECONNRESET');
  expect(connecting.failure).toMatchObject({ ofTls: true, error: { code: 'ECONNRESET' } });
});
