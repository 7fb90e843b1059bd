import { systemClock } from '../../src/daemon/host/clock.ts';
import { openNetlinkKernel } from '../../src/kernel/netlink-kernel.ts';

/**
 * A program for the tests of kernel-process.real.test.ts, run as a process of its own: opens a kernel, waits for
 * notifications, and does what its argument says.
 */
const kernel = openNetlinkKernel({ clock: systemClock });
const events = await kernel.subscribe();
const waiting = events.next(new AbortController().signal).catch(() => []);

if (process.argv[2] !== 'capabilities') process.stdout.write('waiting');
switch (process.argv[2]) {
  case 'close':
    // Nothing is left then that keeps the process alive.
    kernel.close();
    await waiting;
    break;
  case 'exit':
    process.on('exit', () => kernel.close());
    setTimeout(() => process.exit(3), 50);
    break;
  case 'throw':
    process.on('exit', () => kernel.close());
    setTimeout(() => {
      throw new Error('on purpose');
    }, 50);
    break;
  case 'capabilities': {
    const route = {
      family: 4,
      dst: '172.20.1.0/24',
      metric: 0,
      protocol: 102,
      gateway: '10.211.55.101',
    } as const;
    const results = await kernel.apply([
      { op: 'add', route: { ...route, linkIndex: Number(process.argv[3]) } },
    ]);
    const missing = await kernel.missingCapabilities();
    process.stdout.write(JSON.stringify({ missing, results, routes: (await kernel.routes(4)).length }));
    kernel.close();
    break;
  }
}
