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
  /**
   * Searches the host's whole packet filter for rules that block containers' packets. Runs some processes.
   */
  readonly look: (signal: AbortSignal) => Promise<readonly Blockage[]>;
  readonly activity?: Activity;
  readonly resyncMs: number;
}

const retryMs = 10_000;

/** The daemon searches the whole packet filter this often, and after each change that it can see. */
const lookEveryMs = 60_000;
/** While something drops all packets: whoever removes it waits for the daemon to notice. */
const lookAgainMs = 10_000;

const loop = 'firewall';
/** Programs are killed after a time limit. A check that takes so long waits for one in state D. */
const stuckMs = 300_000;

/** So many repairs in a row are no accident. */
const fightChecks = 3;

/**
 * Keeps the firewall rules that let containers' packets pass and, if asked to, masquerade them outside the
 * network. The rules, and the marks by which it knows its own, are flanneld's. It flushes nothing, not even
 * at the start; its rules stay when it stops.
 *
 * A check reads each table that it needs once and writes only the difference, all or nothing. No failure here
 * ends the daemon or stops its routing.
 */
export class Firewall {
  readonly #options: FirewallOptions;
  /** `unwanted`: still to remove. */
  readonly #families: (Pick<FamilyTasks, 'wanted'> & { unwanted: readonly Task[] })[];
  readonly #checked = new Set<Task>();
  /** By task: checks in a row that had to repair. */
  readonly #repairs = new Map<Task, number>();
  /** iptables' tables filter as last read. */
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

  /** Checks and repairs until `signal` aborts, then rejects with its reason. */
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

  /** Resolves after the first attempt at everything, successful or not; rejects with `signal.reason`. */
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
      // The rules of a former mode still work while ours cannot be set.
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
          `firewall: removed our rules that are no longer wanted (${task.name})`,
        );
      }
      return true;
    } catch (error) {
      signal.throwIfAborted();
      // A tool that is not installed has left no rules.
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
    // Whoever removed our rules, for example a reload of firewalld, may have added others. After several
    // times in a row the regular search is enough.
    if (changed && repairs < fightChecks) this.#lookAtMs = Number.NEGATIVE_INFINITY;
    if (repairs > 0) this.#options.activity?.count('firewall-repair', task.name);
    const where = task.name;
    if (changed && first) {
      log.info({ event: 'firewall-set', where }, `firewall: rules set (${where})`);
    } else if (repairs > 0 && repairs < fightChecks) {
      log.warn(
        { event: 'firewall-repaired', where },
        `firewall: restored our rules, which were missing or changed (${where})`,
      );
    }
  }

  /**
   * Reports one trouble for all failures, so that one missing program is one line. Returns whether all is
   * well.
   */
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
        `another program keeps removing or changing our firewall rules (${fights.join(', ')}). Find that program (nft monitor) and stop it`,
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

  /**
   * Searches for rules that block packets when a table that we read has changed, and regularly, as others
   * change unseen.
   */
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
      const message = `cannot search the packet filter for rules that drop containers' packets: ${explanationOf(error)}`;
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
