import type { Clock } from '../../runtime/effects.ts';
import { firstOf } from '../../runtime/wake.ts';
import type { OldStore } from '../registry/registry.ts';
import type { V2Member } from './member.ts';

/** It is asked for a hint alone: the configuration is waited for meanwhile. */
const deadlineMs = 2_000;

/**
 * Whether a key is in the v2 store, for who is not set up to use that store. All members are asked at once, and no user is
 * named: those of v2 are others than v3's.
 */
export class EtcdOldStore implements OldStore {
  readonly #members: readonly V2Member[];
  readonly #clock: Clock;

  constructor(members: readonly V2Member[], clock: Clock) {
    this.#members = members;
    this.#clock = clock;
  }

  async has(key: string, signal: AbortSignal): Promise<boolean | undefined> {
    const answers = await Promise.all(this.#members.map((member) => this.#ask(member, key, signal)));
    return answers.find((answer) => answer !== undefined);
  }

  async #ask(member: V2Member, key: string, signal: AbortSignal): Promise<boolean | undefined> {
    const ask = async (inner: AbortSignal) => {
      const answer = await member.ask({ method: 'GET', key, query: {}, asUser: false }, inner);
      // Its value is of no interest, and may be of any size.
      answer.drop();
      const { status, index } = answer;
      return index !== undefined && (status === 200 || status === 404) ? status === 200 : undefined;
    };
    const giveUp = async (inner: AbortSignal) => {
      await this.#clock.sleep(deadlineMs, inner);
      return undefined;
    };
    try {
      return await firstOf(signal, (inner) => [ask(inner), giveUp(inner)]);
    } catch {
      // Unreadable certificates, a refused connection: the v3 API's calls tell of them.
      signal.throwIfAborted();
      return undefined;
    }
  }
}
