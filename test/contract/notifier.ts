import { describe, expect, it } from 'vitest';
import type { Notifier } from '../../src/runtime/effects.ts';

export interface NotifierUnderTest {
  readonly notifier: Notifier;
  /** What the service manager has received so far, one datagram per entry. */
  readonly received: (count: number) => Promise<readonly string[]>;
}

/** What {@link Notifier} promises, for every implementation. */
export function notifierContract(name: string, setup: () => Promise<NotifierUnderTest>): void {
  describe(`notifier: ${name}`, () => {
    it('sends one assignment per call, in order', async () => {
      const { notifier, received } = await setup();
      notifier.status('waiting for etcd');
      notifier.ready();
      notifier.alive();
      notifier.stopping();
      const sent = ['STATUS=waiting for etcd', 'READY=1', 'WATCHDOG=1', 'STOPPING=1'];
      expect(await received(4)).toEqual(sent);
    });

    it('flattens a status to one line', async () => {
      const { notifier, received } = await setup();
      notifier.status('one\ntwo\r\nREADY=1');
      expect(await received(1)).toEqual(['STATUS=one two READY=1']);
    });
  });
}
