import { basename } from 'node:path';
import type {
  FlanneldLine,
  FlanneldProcess,
  FoundFlanneld,
  FoundUnit,
} from '../../cli/migrate-check/found.ts';
import type { Files } from '../../runtime/effects.ts';
import { systemReason } from '../../runtime/errors.ts';
import { subnetFileOf } from './flags.ts';
import { type Folder, readUnit, requires } from './unit.ts';

/** A host, to be looked at. */
export interface HostView {
  readonly files: Pick<Files, 'readText'>;
  readonly list: Folder['list'];
  readonly flannelds: () => Promise<readonly FlanneldProcess[]>;
}

/** Names of units that start flanneld: CentOS's and CoreOS's, and that of many guides. */
const usualUnits = ['flanneld.service', 'flannel.service'];

/** Looks for the flanneld of a host: its process, its unit, what Docker reads of it. Changes nothing. */
export async function findFlanneld({ files, list, flannelds }: HostView): Promise<FoundFlanneld> {
  const unreadable = new Set<string>();
  const read = async (path: string) => {
    try {
      return await files.readText(path);
    } catch (error) {
      unreadable.add(`${path} (${systemReason(error)})`);
      return undefined;
    }
  };
  const folder = { read, list };
  const processes = await flannelds();
  const running = processes.find(({ name }) => name === 'flanneld');
  const names = [...processes.flatMap(({ unit }) => unit ?? []), ...usualUnits];
  let unit: FoundUnit | undefined;
  for (const name of names) unit ??= await readUnit(folder, name);
  const line = lineOf(running, unit);
  const path = subnetFileOf(line);
  return {
    processes,
    unit,
    line,
    subnetFile: { path, text: await read(path) },
    docker: await readUnit(folder, 'docker.service'),
    isRequiredByDocker: unit !== undefined && (await requires(folder, 'docker.service', unit.name)),
    unreadable: [...unreadable],
  };
}

/** A process says for certain what it was started with. */
function lineOf(running: FlanneldProcess | undefined, unit: FoundUnit | undefined): FlanneldLine | undefined {
  if (running !== undefined) return { argv: running.argv, env: running.env ?? unit?.env ?? {} };
  const command = unit?.start.find(([program = '']) => startsFlanneld(program));
  return command && unit && { argv: command.slice(1), env: unit.env };
}

/** The program itself, or the script of CentOS's package, which adds what the environment says of etcd. */
function startsFlanneld(program: string): boolean {
  return ['flanneld', 'flanneld-start', 'flanneld-ts'].includes(basename(program));
}
