import type { SimHost } from '../host.ts';
import { apart, atOnce, onHost } from './fault.ts';
import { dockerOptsFile, subnetFile } from './oracle.ts';
import type { World } from './world.ts';

/** How soon a file is as it was. */
const repairMs = 250;
/** Whoever changes a file so often within so long is answered more slowly. */
const patience = { times: 4, withinMs: 70_000 } as const;

const files = [subnetFile, dockerOptsFile] as const;

/**
 * What another program leaves of a file; undefined: nothing. None of it names another subnet than the file did, since the judge
 * takes what a host works with from there.
 */
function changed(text: string, dice: number): string | undefined {
  const texts = [
    undefined,
    '',
    text.slice(0, text.indexOf('=') + 1),
    text.replace(/(?<=mtu=)\d+/i, '1300'),
    `${text}# edited\n`,
  ];
  return texts[dice % texts.length];
}

/** Does it to a file that is there. */
function change(host: SimHost, path: string, content: string | undefined): void {
  if (content === undefined) host.files.remove(path);
  else host.files.place(path, content);
}

/** Looks whether the daemon has written a file again in time, if nothing keeps it from that. */
function expectRepair(world: World, host: SimHost, path: string, content: string | undefined): void {
  const { notifier } = host;
  const isCalm = () => host.running && !host.clock.suspended && host.readiness.ready;
  const isFirst = world.count(`${host.name} ${path}`, patience.withinMs) < patience.times;
  const wasCalm = isFirst && isCalm();
  const wasTorn = world.torn.has(host);
  // A daemon that starts before it is put right has no hint.
  world.torn.add(host);
  world.later(repairMs, () => {
    const isLeft = host.files.peek(path) === content;
    if (!isLeft && !wasTorn && host.notifier === notifier) world.torn.delete(host);
    const isDisturbed = host.notifier !== notifier || host.files.writeError !== undefined || !isCalm();
    if (!isLeft || !wasCalm || isDisturbed) return;
    world.violate('files are put right at once', `${host.name}: ${path} is ${content ?? 'still missing'}`);
  });
}

/** What other programs do to the files that the daemon writes for others. */
export const fileFaults = apart({
  'a file is removed or changed': onHost(4, atOnce, (host, world, { dice }) => {
    const path = files[dice % 2] ?? subnetFile;
    const text = host.files.peek(path);
    const content = text && changed(text, dice >> 1);
    // Without a daemon it would be a torn file.
    if (text === undefined || text === content || !host.running) return undefined;
    // Another program has no more room than the daemon.
    if (host.files.writeError !== undefined) return undefined;
    change(host, path, content);
    expectRepair(world, host, path, content);
  }),
  'another program fights for a file': onHost(1, [1_000, 100_000], (host, world, { dice }) => {
    const path = files[dice % 2] ?? subnetFile;
    let isOver = false;
    const again = () => {
      if (isOver) return;
      const text = host.files.peek(path);
      if (text !== undefined && host.files.writeError === undefined) {
        world.count(`${host.name} ${path}`, patience.withinMs);
        change(host, path, `${text}# mine\n`);
      }
      world.later(2_000, again);
    };
    again();
    return () => {
      isOver = true;
    };
  }),
});
