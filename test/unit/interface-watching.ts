import { VirtualClock } from '../../sim/clock.ts';
import type { SimKernel } from '../../sim/kernel.ts';
import { SimLog } from '../../sim/log.ts';
import { chooseInterface } from '../../src/daemon/interface/choose-interface.ts';
import { readHostNetwork } from '../../src/daemon/interface/host-network.ts';
import { InterfaceWatch } from '../../src/daemon/interface/interface-watch.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { brief, makeHost, type Wishes, wishes } from './interface-host.ts';

export interface Watching {
  readonly clock: VirtualClock;
  readonly kernel: SimKernel;
  readonly log: SimLog;
  readonly trouble: TroubleLog;
  /** What the watch told, as {@link brief} writes it. */
  readonly told: string[];
  stop(): Promise<void>;
}

/** Watches what is chosen at the start. */
export async function startWatch(over: Wishes = {}): Promise<Watching> {
  const clock = new VirtualClock();
  const kernel = makeHost(clock);
  const log = new SimLog(clock);
  const trouble = new TroubleLog(clock, log.of('host'));
  const wanted = wishes(over);
  const dump = kernel.open();
  const reading = readHostNetwork(dump, wanted, new AbortController().signal);
  await clock.advance(100);
  const choice = chooseInterface(await reading, wanted);
  if (!('chosen' in choice)) throw new Error(choice.problem);
  const controller = new AbortController();
  const connection = kernel.open();
  const told: string[] = [];
  const parts = { kernel: connection, clock, log: log.of('host'), trouble };
  const onChange = (next: Parameters<typeof brief>[0]) => void told.push(brief(next));
  const made = new InterfaceWatch({ ...parts, ...wanted, host: choice.chosen, onChange });
  const ended = made.run(controller.signal).catch(() => {});
  const stop = async () => {
    controller.abort(new Error('stopped'));
    await ended;
    connection.close();
  };
  return { clock, kernel, log, trouble, told, stop };
}
