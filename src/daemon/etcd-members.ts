import process from 'node:process';
import type { Logger } from '../runtime/effects.ts';
import { explanationOf } from '../runtime/errors.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { EtcdMember } from '../subnet/etcd/member.ts';
import { EtcdSecurity } from '../subnet/etcd/security.ts';
import { V2Client } from '../subnet/etcd-v2/client.ts';
import { HttpV2Member } from '../subnet/etcd-v2/http-member.ts';
import { EtcdOldStore } from '../subnet/etcd-v2/old-store.ts';
import type { V2Store } from '../subnet/etcd-v2/store.ts';
import { EtcdAddresses } from '../subnet/registry/addresses.ts';
import { type MeasuredCall, MeasuredMember } from '../subnet/registry/measured.ts';
import type { EtcdAlarm, OldStore, Registry, RegistryError } from '../subnet/registry/registry.ts';
import { systemClock } from './host/clock.ts';
import { nodeFiles } from './host/files.ts';
import type { EtcdAccess } from './options/options.ts';

/** The ways to etcd, one for each endpoint, and the credentials they share. */
export interface EtcdMembers {
  readonly members: readonly Registry[];
  readonly security: EtcdSecurity;
  readonly oldStore: OldStore;
  readonly addresses: EtcdAddresses;
  /** The alarms of etcd's members, by the first one that tells them; none when nobody does. */
  readonly alarms: (signal: AbortSignal) => Promise<readonly EtcdAlarm[]>;
}

/** Opens no connection yet: each member connects at its first call. `onCall` gets each call when it has ended. */
export function etcdMembers(
  access: EtcdAccess,
  log: Logger,
  notices: TroubleLog,
  onCall?: (call: MeasuredCall) => void,
): EtcdMembers {
  const security = securityOf(access, log, notices);
  const { etcdEndpoints } = access;
  const addresses = new EtcdAddresses(etcdEndpoints.map(({ host }) => host));
  const options = { clock: systemClock, security, addresses };
  const members = etcdEndpoints.map(({ url }) => new EtcdMember(url, options));
  const v2Members = etcdEndpoints.map(({ url }) => new HttpV2Member(url, security, systemClock));
  const alarms = async (signal: AbortSignal) => {
    const asked = members.map((member) => member.alarms(signal));
    const answers = await Promise.allSettled(asked);
    return answers.find((answer) => answer.status === 'fulfilled')?.value ?? [];
  };
  const common = { security, oldStore: new EtcdOldStore(v2Members, systemClock), addresses, alarms };
  if (onCall === undefined) return { ...common, members };
  return { ...common, members: members.map((member) => new MeasuredMember(member, systemClock, onCall)) };
}

/** etcd's v2 store by way of all its members, and its credentials; no connection stays open. */
export function v2Store(
  access: EtcdAccess,
  log: Logger,
  notices: TroubleLog,
): { readonly store: V2Store; readonly security: EtcdSecurity } {
  const security = securityOf(access, log, notices);
  const members = access.etcdEndpoints.map(({ url }) => new HttpV2Member(url, security, systemClock));
  return { store: new V2Client(members, { clock: systemClock }), security };
}

/** Its endpoints, for messages. */
export function urlsOf({ etcdEndpoints }: EtcdAccess): string {
  return etcdEndpoints.map(({ url }) => url).join(',');
}

function securityOf(
  { etcdTls: tls, etcdUser: user, etcdPrefix }: EtcdAccess,
  log: Logger,
  notices: TroubleLog,
): EtcdSecurity {
  // As Go's programs, flanneld among them, have it.
  const systemCa = process.env['SSL_CERT_FILE'];
  return new EtcdSecurity({
    tls,
    user,
    etcdPrefix,
    files: nodeFiles,
    clock: systemClock,
    log,
    notices,
    ...(systemCa === undefined || systemCa === '' ? {} : { systemCas: [systemCa] }),
  });
}

/** Names the members that answer and cannot serve: nobody would miss them before the others fail. */
export function tellFitness(
  notices: TroubleLog,
): (endpoint: string, unfit: RegistryError | undefined) => void {
  return (endpoint, unfit) => {
    const what = `etcd-member ${endpoint}`;
    if (unfit === undefined) notices.clear(what, `etcd at ${endpoint} serves now`);
    else notices.report(what, explanationOf(unfit), { endpoint, error: unfit });
  };
}

/** Until somebody asks for metrics, no more than these are kept; the oldest go. */
const mostKept = 1_000;

/** Calls to etcd on their way to the metrics, whose library is loaded only when somebody asks for them. */
export class EtcdCalls {
  #kept: MeasuredCall[] = [];
  #onCall: ((call: MeasuredCall) => void) | undefined;

  add(call: MeasuredCall): void {
    if (this.#onCall !== undefined) return this.#onCall(call);
    if (this.#kept.length >= mostKept) this.#kept.shift();
    this.#kept.push(call);
  }

  /** Hands over those kept, and from now on each as it ends. */
  handTo(onCall: (call: MeasuredCall) => void): void {
    this.#onCall = onCall;
    for (const call of this.#kept) onCall(call);
    this.#kept = [];
  }
}
