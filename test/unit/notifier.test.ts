import { describe, expect, it } from 'vitest';
import { systemdNotifier } from '../../src/daemon/host/notifier.ts';
import type { LogFields, Logger } from '../../src/runtime/effects.ts';

const nothing = () => {};

function setup(socket: string | undefined) {
  const sent: string[] = [];
  const warnings: string[] = [];
  const log: Logger = {
    debug: nothing,
    info: nothing,
    error: nothing,
    warn: (_: LogFields, text) => warnings.push(text),
  };
  const env = { NOTIFY_SOCKET: socket };
  return { sent, warnings, log, env, send: (path: string, text: string) => sent.push(`${path} ${text}`) };
}

describe('notifying systemd', () => {
  it.each(['/run/systemd/notify', '@abstract'])('sends one assignment per call to %s', (socket) => {
    const { env, log, send, sent } = setup(socket);
    const notifier = systemdNotifier(env, log, send);
    notifier.status('Waiting for etcd');
    notifier.ready();
    notifier.stopping();
    expect(sent).toEqual([`${socket} STATUS=Waiting for etcd`, `${socket} READY=1`, `${socket} STOPPING=1`]);
  });

  it.each([undefined, '', 'vsock:2:1234', 'relative', '/', '@'])(
    'does nothing for the socket %j',
    (socket) => {
      const { env, log, send, sent, warnings } = setup(socket);
      systemdNotifier(env, log, send).ready();
      expect([sent, warnings]).toEqual([[], []]);
    },
  );

  it.each([
    [{ WATCHDOG_USEC: '60000000' }, 60_000],
    [{ WATCHDOG_USEC: '60000000', WATCHDOG_PID: String(process.pid) }, 60_000],
    [{ WATCHDOG_USEC: '60000000', WATCHDOG_PID: '1' }, undefined],
    [{ WATCHDOG_USEC: '0' }, undefined],
    [{ WATCHDOG_USEC: 'soon' }, undefined],
    [{}, undefined],
  ])('takes the watchdog of %j as %j ms', (env, expected) => {
    const { log, send, sent } = setup('/s');
    const notifier = systemdNotifier({ NOTIFY_SOCKET: '/s', ...env }, log, send);
    expect(notifier.watchdogMs).toBe(expected);
    notifier.alive();
    expect(sent).toEqual(['/s WATCHDOG=1']);
  });

  it('flattens a status, so that it cannot hold another assignment', () => {
    const { env, log, send, sent } = setup('/s');
    systemdNotifier(env, log, send).status('a\nREADY=1\r\n\tb\u2028c ');
    expect(sent).toEqual(['/s STATUS=a READY=1 b c']);
  });

  it('cuts a status to 1 kB between characters', () => {
    const { env, log, send, sent } = setup('/s');
    const notifier = systemdNotifier(env, log, send);
    notifier.status('ä'.repeat(2000));
    notifier.status(`x${'€'.repeat(2000)}`);
    expect(sent).toEqual([`/s STATUS=${'ä'.repeat(512)}`, `/s STATUS=x${'€'.repeat(341)}`]);
  });

  it('logs once, and goes on, when the real socket is not there', () => {
    const { env, log, warnings } = setup('/nonexistent/notify');
    const notifier = systemdNotifier(env, log);
    notifier.ready();
    notifier.status('x');
    expect(warnings).toEqual([expect.stringContaining('systemd could not be told READY=1')]);
  });
});
