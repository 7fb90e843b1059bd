import { describe, expect, test } from 'vitest';
import { CONNECTED, DST, type KernelFixture, OTHER, PEER, routeEvents, THIRD } from './kernel-world.ts';

/** Who is told what, and in which order. */
export function eventContract(at: () => KernelFixture): void {
  describe('notifications', () => {
    test('of an operator, with their place in the key', async () => {
      await at().operator.addRoute('add', { dst: DST, gateway: PEER });
      await at().operator.addRoute('append', { dst: DST, gateway: OTHER });
      await at().operator.addRoute('prepend', { dst: DST, gateway: THIRD });
      await at().operator.addRoute('replace', { dst: DST, gateway: '10.211.55.104' });
      await at().operator.deleteRoute({ dst: DST, gateway: OTHER });
      expect(await at().told()).toEqual([
        `+ ${DST} via ${PEER} proto 3 metric 0`,
        `> ${DST} via ${OTHER} proto 3 metric 0`,
        `+ ${DST} via ${THIRD} proto 3 metric 0`,
        `= ${DST} via 10.211.55.104 proto 3 metric 0`,
        `- ${DST} via ${OTHER} proto 3 metric 0`,
      ]);
      expect(await at().table()).toEqual([
        CONNECTED,
        `${DST} via 10.211.55.104 proto 3 metric 0`,
        `${DST} via ${PEER} proto 3 metric 0`,
      ]);
    });

    test('of another daemon are not our own', async () => {
      await at()
        .world.open()
        .apply([{ op: 'add', route: at().ours() }]);
      expect(await at().told()).toEqual([`+ ${DST} via ${PEER} proto 102 metric 0`]);
    });

    test('drain returns those of the batch before it, every time', async () => {
      for (let i = 0; i < 100; i++) {
        expect(await at().replace(at().ours(DST, i % 2 === 0 ? PEER : OTHER))).toEqual(['done']);
        expect(await at().told()).toHaveLength(1);
      }
      expect(await at().told()).toEqual([]);
    });

    test('are kept in order when a call of next was aborted', async () => {
      // Of the set-up there may be news yet, and next would not have to wait.
      await at().told();
      const aborted = new AbortController();
      const waiting = at().events.next(aborted.signal);
      aborted.abort(new Error('enough'));
      await expect(waiting).rejects.toThrow('enough');
      await at().add(at().ours());
      await at().replace(at().ours(DST, OTHER));
      await at().remove(at().ours(DST, OTHER));
      expect(await at().told()).toEqual([
        `+ ${DST} via ${PEER} proto 102 metric 0`,
        `= ${DST} via ${OTHER} proto 102 metric 0`,
        `- ${DST} via ${OTHER} proto 102 metric 0`,
      ]);
    });

    test('next waits for one', async () => {
      const waiting = at().events.next(AbortSignal.timeout(10_000));
      await at().operator.addRoute('add', { dst: DST, gateway: PEER });
      expect(routeEvents(await waiting)).toEqual([`+ ${DST} via ${PEER} proto 3 metric 0`]);
    });
  });
}
