import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { until } from '../testbed/netns.ts';
import { makeNamespaceWorld, type NamespaceWorld } from './kernel-namespace.ts';
import { KernelFixture } from './kernel-world.ts';

const PROGRAM = fileURLToPath(new URL('./kernel-process.ts', import.meta.url));

let world: NamespaceWorld;
let at: KernelFixture;

beforeEach(async () => {
  world = await makeNamespaceWorld();
  at = await KernelFixture.of(world);
});
afterEach(() => world.close());

/** Runs kernel-process.ts in the host's namespace. */
function run(argv: string[], prefix: string[] = []): Promise<{ code: unknown; stdout: string }> {
  const program = [...prefix, process.execPath, PROGRAM, ...argv];
  const command = [`--net=/run/netns/${world.host.namespace}`, '--', ...program];
  return new Promise((resolve) => {
    execFile('nsenter', command, { timeout: 20_000, killSignal: 'SIGKILL' }, (error, stdout) => {
      resolve({ code: error === null ? 0 : (error.code ?? error.signal), stdout });
    });
  });
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

describe('the process', () => {
  test.each([
    ['close', 0],
    ['exit', 3],
    ['throw', 1],
  ])('ends by itself: %s', async (how, code) => {
    expect(await run([how])).toEqual({ code, stdout: 'waiting' });
  });

  test('without CAP_NET_ADMIN says so, is refused each change, and still sees the routes', async () => {
    const result = await run(
      ['capabilities', String(at.eth0)],
      ['setpriv', '--bounding-set', '-net_admin', '--inh-caps', '-net_admin', '--'],
    );
    expect(JSON.parse(result.stdout)).toEqual({
      missing: ['CAP_NET_ADMIN'],
      results: [{ outcome: 'failed', errno: 'EPERM' }],
      routes: 1,
    });
  });

  test('keeps no descriptor of what was closed, whatever was waiting', async () => {
    const before = descriptors();
    for (let i = 0; i < 20; i++) {
      const kernel = world.open();
      const events = await kernel.subscribe();
      const waiting = events.next(AbortSignal.timeout(10_000)).catch((error: unknown) => error);
      const [dump] = await Promise.all([
        kernel.routes(4),
        kernel.apply([{ op: 'replace', route: at.ours() }]),
      ]);
      expect(dump.length).toBeGreaterThan(0);
      kernel.close();
      await waiting;
    }
    await until(
      () => descriptors() <= before,
      5000,
      () => `${descriptors()} descriptors, ${before} before`,
    );
  });
});
