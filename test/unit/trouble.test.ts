import { beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimLog } from '../../sim/log.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';

const minuteMs = 60_000;
const dayMs = 24 * 60 * minuteMs;

let clock: VirtualClock;
let log: SimLog;
let trouble: TroubleLog;

beforeEach(() => {
  clock = new VirtualClock();
  log = new SimLog(clock);
  trouble = new TroubleLog(clock, log.of('h0'));
});

const messages = () => log.lines.map(({ message }) => message);

/** Reports every `everyMs` for a day. */
async function aDayOf(everyMs: number, step: (index: number) => void): Promise<void> {
  for (let index = 0; index * everyMs < dayMs; index++) {
    step(index);
    await clock.advance(everyMs);
  }
}

describe('TroubleLog', () => {
  it('remembers the last troubles, those that are over among them', async () => {
    const startMs = clock.now();
    trouble.report('etcd', 'etcd is away');
    await clock.advance(1_000);
    trouble.report('files', 'the disk is full');
    trouble.report('etcd', 'etcd refuses');
    await clock.advance(1_000);
    trouble.clear('etcd', 'etcd answers');
    expect(trouble.records).toEqual([
      { what: 'etcd', message: 'etcd refuses', sinceMs: startMs, overMs: startMs + 2_000, attempts: 2 },
      { what: 'files', message: 'the disk is full', sinceMs: startMs + 1_000, attempts: 1 },
    ]);
    for (let index = 0; index < 50; index++) {
      trouble.report('kernel', `failure ${index}`);
      trouble.clear('kernel', 'it works');
    }
    expect(trouble.records.map(({ message }) => message)).toEqual([
      ...Array.from({ length: 20 }, (_, index) => `failure ${index + 30}`),
      'the disk is full',
    ]);
  });

  it('says when a trouble begins and when it is over, with how long it took', async () => {
    trouble.report('etcd', 'etcd is away', { endpoint: 'http://a:2379' });
    await clock.advance(5_000);
    trouble.report('etcd', 'etcd is away');
    await clock.advance(2_000);
    trouble.clear('etcd', 'etcd answers', { endpoint: 'http://b:2379' });
    expect(log.lines.map(({ level, message, fields }) => ({ level, message, fields }))).toEqual([
      {
        level: 'warn',
        message: 'etcd is away',
        fields: { event: 'trouble', what: 'etcd', endpoint: 'http://a:2379' },
      },
      {
        level: 'info',
        message: 'etcd answers',
        fields: { event: 'trouble-over', what: 'etcd', attempts: 2, lastedS: 7, endpoint: 'http://b:2379' },
      },
    ]);
  });

  it('names the troubles of now with their newest messages, oldest first', async () => {
    trouble.report('etcd', 'etcd refuses connections');
    trouble.report('lease', 'no lease');
    await clock.advance(100);
    trouble.report('etcd', 'etcd has no leader');
    expect(trouble.current).toEqual(['etcd has no leader', 'no lease']);
    trouble.clear('etcd', 'etcd answers');
    expect(trouble.current).toEqual(['no lease']);
    expect([trouble.has('etcd'), trouble.has('lease')]).toEqual([false, true]);
    trouble.report('etcd', 'etcd is away again');
    expect(trouble.current).toEqual(['no lease', 'etcd is away again']);
  });

  it('repeats a trouble that lasts ever more rarely: less than 12 lines a day', async () => {
    await aDayOf(1_000, () => trouble.report('etcd', 'etcd is away'));
    expect(log.lines.length).toBeGreaterThan(3);
    expect(log.lines.length).toBeLessThan(12);
    expect(log.lines[1]?.atMs).toBe(10 * minuteMs);
    expect(log.lines[1]?.fields).toMatchObject({ attempts: 601, lastingS: 600 });
  }, 30_000);

  it('logs messages that alternate (members of etcd) only now and then', async () => {
    const names = ['a', 'b', 'c'];
    await aDayOf(12_000, (index) => trouble.report('etcd', `http://${names[index % 3]}:2379 is away`));
    expect(log.lines.length).toBeLessThan(20);
  });

  it('logs a message that is never the same (a number of seconds) only now and then', async () => {
    await aDayOf(12_000, (index) => trouble.report('etcd', `${index} s are left`));
    expect(log.lines.length).toBeLessThan(120);
    expect(trouble.current).toEqual(['7199 s are left']);
  });

  it('logs a trouble that comes and goes only now and then, and its last state soon', async () => {
    await aDayOf(3_000, () => {
      trouble.report('watch', 'the watch is lost');
      trouble.clear('watch', 'the watch is back');
    });
    expect(log.lines.length).toBeLessThan(240);
    expect(log.lines.length % 2).toBe(0);
    // Now it stays.
    const before = log.lines.length;
    for (let seconds = 0; seconds < 1_200; seconds += 3) {
      trouble.report('watch', 'the watch is lost');
      await clock.advance(3_000);
    }
    expect(messages().slice(before)).toContain('the watch is lost');
    trouble.clear('watch', 'the watch is back');
    expect(messages().at(-1)).toBe('the watch is back');
  }, 30_000);

  it('says a mistake in the program as an error, with the stack once per trouble, and a new message at once', async () => {
    const bug = new TypeError('Cannot read properties of undefined');
    const report = (text: string) => trouble.report('lease', text, { key: 'k', error: bug });
    const fields = { event: 'trouble', what: 'lease', key: 'k' };
    report('no lease yet');
    await clock.advance(10 * minuteMs);
    report('no lease yet');
    report('no lease for an hour');
    expect(log.lines.map(({ level, fields: said }) => ({ level, said }))).toEqual([
      { level: 'error', said: { ...fields, error: bug } },
      { level: 'error', said: { ...fields, attempts: 2, lastingS: 600 } },
      { level: 'error', said: { ...fields, attempts: 3, lastingS: 600 } },
    ]);
    trouble.clear('lease', 'lease acquired');
    report('no lease yet');
    expect(log.lines.at(-1)?.fields).toEqual({ ...fields, error: bug });
  });

  it('says an error that is no mistake in the program by its message alone', () => {
    const refused = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    trouble.report('etcd', 'etcd is away', { error: refused });
    expect(log.lines[0]).toMatchObject({ level: 'warn', fields: { event: 'trouble', what: 'etcd' } });
    expect(log.lines[0]?.fields).not.toHaveProperty('error');
  });

  it('says again at once what comes back after a long time', async () => {
    trouble.report('etcd', 'etcd is away');
    trouble.clear('etcd', 'etcd answers');
    await clock.advance(dayMs);
    trouble.report('etcd', 'etcd is away');
    expect(messages()).toEqual(['etcd is away', 'etcd answers', 'etcd is away']);
  });
});
