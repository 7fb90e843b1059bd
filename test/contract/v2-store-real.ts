import { cpSync, rmSync } from 'node:fs';
import { request as requestHttp } from 'node:http';
import { Agent, request as requestHttps } from 'node:https';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { VirtualClock } from '../../sim/clock.ts';
import { SimLog } from '../../sim/log.ts';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { nodeFiles } from '../../src/daemon/host/files.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { EtcdSecurity, type EtcdUser } from '../../src/subnet/etcd/security.ts';
import type { TlsFiles } from '../../src/subnet/etcd/tls-files.ts';
import { V2Client, type V2ClientOptions } from '../../src/subnet/etcd-v2/client.ts';
import { HttpV2Member } from '../../src/subnet/etcd-v2/http-member.ts';
import type { EtcdMember } from '../testbed/etcd.ts';
import { type EtcdTls, startEtcd } from '../testbed/etcd.ts';
import type { V2World } from './v2-store-suite.ts';

/** Who asks, and with which certificates. */
export interface V2Access {
  readonly tls?: TlsFiles;
  readonly user?: EtcdUser;
}

/** The credentials of a client. */
export function securityOf({ tls = {}, user }: V2Access = {}): EtcdSecurity {
  const log = new SimLog(new VirtualClock()).of('host');
  const notices = new TroubleLog(systemClock, log);
  return new EtcdSecurity({
    tls,
    user,
    etcdPrefix: '/net',
    files: nodeFiles,
    clock: systemClock,
    log,
    notices,
  });
}

/** The store by way of these endpoints. */
export function v2Client(
  endpoints: readonly string[],
  access: V2Access = {},
  options: Omit<V2ClientOptions, 'clock'> = {},
): V2Client {
  const security = securityOf(access);
  const members = endpoints.map((endpoint) => new HttpV2Member(endpoint, security, systemClock));
  return new V2Client(members, { clock: systemClock, ...options });
}

export interface RealV2Options {
  readonly dir: string;
  readonly members: number;
  /** How the members serve https; then `access` has what a client needs. */
  readonly tls?: EtcdTls;
  readonly access?: V2Access;
  /** Somebody else, who may do everything; sent as basic authentication. */
  readonly other?: string;
  /** Runs once the cluster serves. */
  readonly prepare?: (endpoint: string) => Promise<void>;
}

/** A real etcd that serves v2. */
export async function realV2World(options: RealV2Options): Promise<V2World> {
  const { dir, tls, access, other } = options;
  const args = ['--enable-v2'];
  const etcd = await startEtcd({
    dir,
    members: options.members,
    args,
    ...(tls === undefined ? {} : { tls }),
  });
  const agent = tls && new Agent({ keepAlive: true, ...(await materialOf(access)) });
  const at = (place: number): EtcdMember => {
    const member = etcd.members[place];
    if (member === undefined) throw new RangeError(`no member ${place}`);
    return member;
  };
  await options.prepare?.(etcd.first.clientUrl);
  const keys = (method: string, key: string, query: object, form?: object) =>
    askRaw(new URL(`/v2/keys${key}?${params(query)}`, etcd.first.clientUrl), method, {
      ...(agent === undefined ? {} : { agent }),
      ...(form === undefined ? {} : { form: params(form) }),
      ...(other === undefined ? {} : { auth: other }),
    });
  const until: V2World['until'] = async (what, condition) => {
    const deadline = performance.now() + 30_000;
    while (!(await condition())) {
      if (performance.now() > deadline) throw new Error(`${what}: not within 30 s`);
      await sleep(20);
    }
  };
  const dataDir = ({ name }: EtcdMember) => join(dir, name);
  let tokens = 0;
  return {
    connect: ({ members = [...etcd.members.keys()], ...more } = {}) =>
      v2Client(
        members.map((place) => at(place).clientUrl),
        access,
        more,
      ),
    put: (key, form, query = {}) => keys('PUT', key, query, form),
    remove: (key, query = {}) => keys('DELETE', key, query),
    freeze: (place) => at(place).pause(),
    thaw: (place) => at(place).resume(),
    stop: (place) => at(place).stop(),
    async start(...places) {
      for (const place of places) at(place).launch();
      await Promise.all(etcd.members.map((member) => member.healthy()));
    },
    async save() {
      await Promise.all(etcd.members.map((member) => member.stop()));
      for (const member of etcd.members) {
        rmSync(`${dataDir(member)}.saved`, { recursive: true, force: true });
        cpSync(dataDir(member), `${dataDir(member)}.saved`, { recursive: true });
      }
      await startAll(etcd.members);
    },
    async restore(as) {
      await Promise.all(etcd.members.map((member) => member.kill()));
      for (const member of etcd.members) {
        rmSync(dataDir(member), { recursive: true });
        if (as === 'the same cluster')
          cpSync(`${dataDir(member)}.saved`, dataDir(member), { recursive: true });
      }
      // The id follows from the members' addresses and this token.
      if (as === 'another cluster') args.push('--initial-cluster-token', `token-${++tokens}`);
      await startAll(etcd.members);
    },
    settled: (promise) => promise,
    until,
    async close() {
      agent?.destroy();
      await etcd.close();
    },
  };
}

async function startAll(members: readonly EtcdMember[]): Promise<void> {
  for (const member of members) member.launch();
  await Promise.all(members.map((member) => member.healthy()));
}

async function materialOf(access: V2Access = {}) {
  const { context } = await securityOf(access).refresh();
  return { secureContext: context };
}

function params(fields: object): string {
  return new URLSearchParams(Object.entries(fields)).toString();
}

interface RawOptions {
  readonly agent?: Agent;
  readonly form?: string;
  readonly auth?: string;
  readonly json?: string;
}

/** One request of somebody else's; rejects when etcd refuses it. */
export function askRaw(url: URL, method: string, { form, json, ...options }: RawOptions = {}): Promise<void> {
  const type = json === undefined ? 'application/x-www-form-urlencoded' : 'application/json';
  const send = url.protocol === 'https:' ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    const asking = send(url, { method, headers: { 'content-type': type }, ...options }, (answer) => {
      let text = '';
      answer.setEncoding('utf8');
      answer.on('data', (chunk: string) => (text += chunk));
      answer.once('end', () => {
        if ((answer.statusCode ?? 0) < 300) resolve();
        else reject(new Error(`${method} ${url.pathname}: HTTP status ${answer.statusCode}: ${text}`));
      });
      answer.once('error', reject);
    });
    asking.once('error', reject);
    asking.end(json ?? form);
  });
}
