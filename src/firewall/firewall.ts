import type { Family } from '../ip/ip.ts';
import type { Activity } from '../runtime/activity.ts';
import type { Clock, Commands, Logger, Random } from '../runtime/effects.ts';
import { explanationOf } from '../runtime/errors.ts';
import { joined } from '../runtime/texts.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { Wake } from '../runtime/wake.ts';
import type { Blockage } from './blockages.ts';
import type { SavedTable } from './iptables-save.ts';
import { type FamilyTasks, type FirewallSettings, familyTasks, type Task } from './tasks.ts';
import { isMissing } from './tool.ts';

export interface FirewallOptions extends FirewallSettings {
  readonly commands: Commands;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  readonly notices: TroubleLog;
  /** What of this host's whole packet filter keeps containers' packets from passing. Costs some processes. */
  readonly look: (signal: AbortSignal) => Promise<readonly Blockage[]>;
  /** Told of each repair. */
  readonly activity?: Activity;
  /** How often the rules are checked. */
  readonly resyncMs: number;
}

/** After a failure the next try does not wait longer than this. */
const retryMs = 10_000;

/** The whole packet filter is looked at this often, and after each change that shows in what is read anyway. */
const lookEveryMs = 60_000;
/** While something drops all packets: who has removed it waits for us to see that. */
const lookAgainMs = 10_000;

const loop = 'firewall';
/** Programs have a time limit and are killed after it: a check that takes this long waits for one that cannot be (state D). */
const stuckMs = 300_000;

/** So many repairs in a row are no accident any more. */
const fightChecks = 3;

/**
 * Keeps the rules in place that let containers' packets pass and, if asked to, hide containers behind their host outside the
 * network. The rules, and what is ours among others, are flanneld's. Nothing is flushed, not at the start either; on a stop
 * all stays.
 *
 * A check reads each table we need once and writes, all or nothing, only what differs. Nothing that fails here ends the
 * daemon or keeps it from routing.
 */
export class Firewall {
  readonly #options: FirewallOptions;
  /** `unwanted`: not done yet. */
  readonly #families: (Pick<FamilyTasks, 'wanted'> & { unwanted: readonly Task[] })[];
  readonly #checked = new Set<Task>();
  /** Checks in a row that found something to repair, by task. */
  readonly #repairs = new Map<Task, number>();
  /** What iptables' tables filter held when they were last read. */
  readonly #filters = new Map<Family, string>();
  #lookedAt = '';
  #lookAtMs = Number.NEGATIVE_INFINITY;
  readonly #triedWake = new Wake();
  #tried = false;

  constructor(options: FirewallOptions) {
    this.#options = options;
    const { commands, networks } = options;
    this.#families = ([4, 6] as const).flatMap((family) => {
      const network = family === 4 ? networks.ipv4 : networks.ipv6;
      const onFilter = (table: SavedTable) => void this.#filters.set(family, textOf(table));
      return network === undefined ? [] : [{ ...familyTasks(commands, options, family, network, onFilter) }];
    });
  }

  /** Checks and repairs until `signal` aborts; rejects with its reason and for nothing else. */
  async run(signal: AbortSignal): Promise<never> {
    const { activity, clock, random, resyncMs } = this.#options;
    try {
      for (;;) {
        activity?.round(loop, stuckMs);
        const fine = await this.#check(signal);
        await this.#lookIfDue(signal);
        this.#tried = true;
        this.#triedWake.wake();
        const waitMs = (fine ? resyncMs : Math.min(resyncMs, retryMs)) * (0.9 + 0.2 * random.next());
        activity?.round(loop, waitMs + stuckMs);
        await clock.sleep(waitMs, signal);
      }
    } finally {
      activity?.end(loop);
    }
  }

  /** Resolves once everything was tried a first time, whatever came of it; rejects with `signal.reason`. */
  async tried(signal: AbortSignal): Promise<void> {
    while (!this.#tried) await this.#triedWake.wait(signal);
  }

  async #check(signal: AbortSignal): Promise<boolean> {
    const failures = new Map<string, unknown>();
    for (const family of this.#families) {
      let applied = true;
      for (const task of family.wanted) {
        if (!(await this.#attempt(task, true, failures, signal))) applied = false;
      }
      // What a former mode left still does its work while ours cannot.
      if (!applied) continue;
      for (const task of family.unwanted) {
        if (await this.#attempt(task, false, failures, signal))
          family.unwanted = family.unwanted.filter((other) => other !== task);
      }
    }
    return this.#tell(failures);
  }

  /** Resolves to whether the task is done. */
  async #attempt(
    task: Task,
    isWanted: boolean,
    failures: Map<string, unknown>,
    signal: AbortSignal,
  ): Promise<boolean> {
    try {
      const changed = await task.run(signal);
      if (isWanted) this.#noteChange(task, changed);
      else if (changed) {
        this.#options.log.info(
          { event: 'firewall-removed', where: task.name },
          `firewall: rules of ours that are no longer wanted were removed (${task.name})`,
        );
      }
      return true;
    } catch (error) {
      signal.throwIfAborted();
      // A tool that is not there has left nothing.
      if (!isWanted && isMissing(error)) return true;
      failures.set(explanationOf(error), error);
      return false;
    }
  }

  #noteChange(task: Task, changed: boolean): void {
    const { log } = this.#options;
    const first = !this.#checked.has(task);
    this.#checked.add(task);
    const repairs = changed && !first ? (this.#repairs.get(task) ?? 0) + 1 : 0;
    this.#repairs.set(task, repairs);
    // Whoever has taken our rules away, as a reload of firewalld does, may have put others; who does so all the time is looked at now and then.
    if (changed && repairs < fightChecks) this.#lookAtMs = Number.NEGATIVE_INFINITY;
    if (repairs > 0) this.#options.activity?.count('firewall-repair', task.name);
    const where = task.name;
    if (changed && first) {
      log.info({ event: 'firewall-set', where }, `firewall: rules put in place (${where})`);
    } else if (repairs > 0 && repairs < fightChecks) {
      log.warn(
        { event: 'firewall-repaired', where },
        `firewall: rules of ours were missing or changed and were put back (${where})`,
      );
    }
  }

  /** One trouble for all of it, so that one missing program is one line. Returns whether there is none. */
  #tell(failures: ReadonlyMap<string, unknown>): boolean {
    const { trouble } = this.#options;
    const fights = [...this.#repairs]
      .filter(([, repairs]) => repairs >= fightChecks)
      .map(([{ name }]) => name);
    if (fights.length === 0) {
      trouble.clear('firewall-fight', 'the firewall rules are stable again');
    } else {
      trouble.report(
        'firewall-fight',
        `another program removes or changes our firewall rules (${fights.join(', ')}) again and again: find it and let it leave them alone`,
      );
    }
    if (failures.size === 0) {
      trouble.clear('firewall', 'the firewall rules are in place');
      return true;
    }
    const [error] = failures.values();
    trouble.report('firewall', `firewall: ${joined([...failures.keys()], '; ')}`, { error });
    return false;
  }

  /** Asks for what blocks packets when it may have changed, and otherwise now and then: other tables change unseen. */
  async #lookIfDue(signal: AbortSignal): Promise<void> {
    const { clock, look, trouble, notices } = this.#options;
    const seen = [...this.#filters.values()].join('\n');
    const nowMs = clock.monotonic();
    if (seen === this.#lookedAt && nowMs < this.#lookAtMs) return;
    [this.#lookedAt, this.#lookAtMs] = [seen, nowMs + lookEveryMs];
    let blockages: readonly Blockage[];
    try {
      blockages = await look(signal);
    } catch (error) {
      signal.throwIfAborted();
      const message = `the packet filter cannot be searched for rules that drop containers' packets: ${explanationOf(error)}`;
      notices.report('forward-unread', message, { error });
      return;
    }
    notices.clear('forward-unread', 'the packet filter can be read again');
    const told = (effect: Blockage['effect']) =>
      blockages.filter((one) => one.effect === effect).map(({ text, remedy }) => `${text}. ${remedy}`);
    const closed = told('closed');
    if (closed.length > 0) this.#lookAtMs = nowMs + lookAgainMs;
    tell(trouble, 'forward-closed', closed);
    tell(notices, 'forward-partly', told('partly'));
  }
}

function tell(log: TroubleLog, what: string, texts: readonly string[]): void {
  if (texts.length > 0) log.report(what, joined(texts, '. '));
  else log.clear(what, "the firewall lets containers' packets pass");
}

function textOf(table: SavedTable): string {
  return [...table]
    .map(([name, { policy, rules }]) => [name, policy, ...rules.map(({ text }) => text)].join('\n'))
    .join('\n');
}
