import { subnet } from '../../sim/leases.ts';
import { SimLog } from '../../sim/log.ts';
import { SeededRandom } from '../../sim/random.ts';
import type { Blockage } from '../../src/firewall/blockages.ts';
import { Firewall } from '../../src/firewall/firewall.ts';
import type { FirewallSettings } from '../../src/firewall/tasks.ts';
import type { Family } from '../../src/ip/ip.ts';
import type { Clock, CommandResult, Commands } from '../../src/runtime/effects.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';

/** A host's firewall tools, real or simulated, with empty tables. */
export interface FirewallWorld {
  readonly commands: Commands;
  close(): Promise<void>;
}

export const N = '10.5.0.0/16';
export const S = '10.5.7.0/24';
export const N6 = 'fc00:5::/32';
export const S6 = 'fc00:5:0:7::/64';

export const ipv4 = { network: subnet(N), subnet: subnet(S) };
/** Another daemon's. */
export const otherIpv4 = { network: subnet('172.31.0.0/16'), subnet: subnet('172.31.4.0/24') };
export const ipv6 = { network: subnet(N6), subnet: subnet(S6) };

/** Everything on, as with --ip-masq and both families. */
export const everything: FirewallSettings = {
  mode: 'iptables',
  networks: { ipv4, ipv6 },
  masquerade: true,
  fullyRandom: true,
  forwardRules: true,
  forwardPosition: 'auto',
};

/** Time that passes only when a test says so, whatever real processes take. */
class StepClock implements Clock {
  #elapsedMs = 0;
  #sleeper: { readonly ms: number; readonly wake: () => void } | undefined;
  #onSleep = (_ms: number) => {};

  now(): number {
    return this.#elapsedMs;
  }

  monotonic(): number {
    return this.#elapsedMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
      this.#sleeper = { ms, wake: resolve };
      this.#onSleep(ms);
    });
  }

  /** Resolves to how long the next sleep wants to be, once it begins. Lets the time of the one before pass first. */
  nextSleep(): Promise<number> {
    const asleep = new Promise<number>((resolve) => {
      this.#onSleep = resolve;
    });
    const sleeper = this.#sleeper;
    this.#sleeper = undefined;
    this.#elapsedMs += sleeper?.ms ?? 0;
    sleeper?.wake();
    return asleep;
  }
}

/** One daemon's firewall, which checks when it is told to. */
export class CheckedFirewall {
  readonly clock = new StepClock();
  readonly log = new SimLog(this.clock);
  readonly trouble = new TroubleLog(this.clock, this.log.of('host'));
  readonly notices = new TroubleLog(this.clock, this.log.of('host'));
  /** What its looks find. */
  look: () => Promise<readonly Blockage[]> = async () => [];
  /** Programs its checks have run, as `program args`. */
  readonly ran: string[] = [];
  /** Called before each program its checks run. */
  before: (call: string) => Promise<void> = async () => undefined;
  readonly #controller = new AbortController();
  readonly #firewall: Firewall;
  #running: Promise<unknown> | undefined;

  constructor(world: FirewallWorld, settings: Partial<FirewallSettings> = {}, resyncMs = 5_000) {
    this.#firewall = new Firewall({
      ...everything,
      ...settings,
      commands: {
        run: async (program, args, options, signal) => {
          const call = [program, ...args].join(' ');
          this.ran.push(call);
          await this.before(call);
          return await world.commands.run(program, args, options, signal);
        },
      },
      clock: this.clock,
      random: new SeededRandom(1),
      log: this.log.of('host'),
      trouble: this.trouble,
      notices: this.notices,
      look: () => this.look(),
      resyncMs,
    });
  }

  /** One check, from the beginning to its end; resolves to the wait for the next, ms. The first one starts it. */
  async check(): Promise<number> {
    this.ran.length = 0;
    const asleep = this.clock.nextSleep();
    this.#running ??= this.#firewall.run(this.#controller.signal).catch((error: unknown) => error);
    const ended = this.#running.then((error) => Promise.reject(error as Error));
    return await Promise.race([asleep, ended]);
  }

  /** What the last check has written with. */
  get writes(): readonly string[] {
    return this.ran.filter((call) => call.includes('-restore') || call.startsWith('nft -f'));
  }

  async stop(): Promise<void> {
    const reason = new Error('stopped');
    this.#controller.abort(reason);
    if ((await this.#running) !== reason) throw new Error('the firewall ended otherwise than asked');
  }

  messages(event: string): readonly string[] {
    return this.log.events(event).map(({ message }) => message);
  }
}

/** The operator at the same host. */
export class Operator {
  readonly #commands: Commands;

  constructor({ commands }: FirewallWorld) {
    this.#commands = commands;
  }

  /** Runs a tool whatever its exit code. */
  async try(line: string, stdin?: string): Promise<CommandResult> {
    const [program = '', ...args] = line.split(' ');
    const options = { ...(stdin === undefined ? {} : { stdin }), timeoutMs: 20_000 };
    return await this.#commands.run(program, args, options, new AbortController().signal);
  }

  /** Runs a tool; throws when it fails. */
  async run(line: string, stdin?: string): Promise<string> {
    const { exitCode, stdout, stderr } = await this.try(line, stdin);
    if (exitCode !== 0) throw new Error(`${line}: ${stderr}`);
    return stdout;
  }

  /** `iptables-restore --noflush` with these lines of one table. */
  async change(table: string, lines: readonly string[], family: Family = 4): Promise<void> {
    await this.run(`${programOf(family)}-restore --noflush`, `*${table}\n${lines.join('\n')}\nCOMMIT\n`);
  }

  /** The rules of a table as iptables-save prints them; with `chain`, those of that chain without `-A CHAIN`. */
  async rules(table: string, chain?: string, family: Family = 4): Promise<readonly string[]> {
    const lines = (await this.run(`${programOf(family)}-save -t ${table}`)).split('\n');
    const start = chain === undefined ? '-A ' : `-A ${chain} `;
    return lines
      .filter((line) => line.startsWith(start))
      .map((line) => line.slice(chain === undefined ? 0 : start.length));
  }

  /** The chains of a table that are not built in. */
  async chains(table: string, family: Family = 4): Promise<readonly string[]> {
    const lines = (await this.run(`${programOf(family)}-save -t ${table}`)).split('\n');
    return lines.flatMap((line) => /^:(\S+) - /.exec(line)?.[1] ?? []);
  }
}

export function programOf(family: Family): string {
  return family === 4 ? 'iptables' : 'ip6tables';
}
