import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach } from 'vitest';
import { systemdNotifier } from '../../src/daemon/host/notifier.ts';
import type { Logger } from '../../src/runtime/effects.ts';
import { NotifySocket } from '../testbed/notify-socket.ts';
import { tempDir } from '../testbed/run.ts';
import { notifierContract } from './notifier.ts';

const cleanups: (() => void)[] = [];

afterEach(() => {
  for (const cleanup of cleanups.splice(0).toReversed()) cleanup();
});

const refuse = () => {
  throw new Error('nothing is to be logged');
};
const log: Logger = { debug: refuse, info: refuse, warn: refuse, error: refuse };

notifierContract('systemd, over a unix datagram socket', async () => {
  const folder = tempDir('notify');
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  const socket = new NotifySocket(join(folder, 'notify'));
  cleanups.push(() => socket.close());
  return {
    notifier: systemdNotifier({ NOTIFY_SOCKET: socket.path }, log),
    received: (count) => socket.received(count),
  };
});
