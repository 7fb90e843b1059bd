import type { Family } from '../ip/ip.ts';
import type { Commands } from '../runtime/commands.ts';
import { iptablesFilter } from './iptables-filter.ts';
import { parseSaveAll } from './iptables-save.ts';
import { nftFilter } from './nft-filter.ts';
import { isMissing, runTool } from './tool.ts';
import type { FilterTable } from './walk.ts';

/** What could be read of a host's packet filter. */
export interface Filters {
  readonly tables: readonly FilterTable[];
  /**
   * The host uses nftables, and has no nft to show all of its tables: firewalld, which sets them by libnftables, is installed without
   * nft on Debian.
   */
  readonly nftMissing: boolean;
}

/**
 * All tables of this host's packet filter that see packets of `families`. What iptables keeps in nftables' tables is read
 * from iptables, since nft cannot name all of its tests. Rejects with a FlannelError.
 */
export async function readFilters(
  commands: Commands,
  families: readonly Family[],
  signal: AbortSignal,
): Promise<Filters> {
  const own = await readNft(commands, signal);
  const kinds: IptablesTables[] = [];
  for (const family of families) kinds.push(await readIptables(commands, family, signal));
  const saved = kinds.flatMap(({ tables }) => tables);
  const shown = new Set(
    saved
      .filter(({ program }) => !program.endsWith('-legacy'))
      .map(({ program, name }) => `${program.startsWith('ip6') ? 'ip6' : 'ip'} ${name}`),
  );
  return {
    tables: [...saved, ...(own ?? []).filter(({ name }) => !shown.has(name))],
    nftMissing: own === undefined && kinds.some(({ usesNftables }) => usesNftables),
  };
}

/** One rule as nft prints it; its handle when it is gone by now. */
export async function readNftRule(
  commands: Commands,
  table: string,
  chain: string,
  handle: string,
  signal: AbortSignal,
): Promise<string> {
  const args = ['-a', 'list', 'chain', ...table.split(' '), chain];
  const { stdout } = await runTool(commands, 'nft', args, signal, { tolerated: /^/ });
  const line = stdout.split('\n').find((one) => one.endsWith(` # ${handle}`));
  return line === undefined ? handle : `"${line.slice(0, -` # ${handle}`.length).trim()}"`;
}

/** Undefined: there is no nft. */
async function readNft(commands: Commands, signal: AbortSignal): Promise<readonly FilterTable[] | undefined> {
  // A kernel without nftables has no rules of it.
  const tolerated = /Protocol not supported/;
  const said = await ifInstalled(() =>
    runTool(commands, 'nft', ['-j', 'list', 'ruleset'], signal, { tolerated }),
  );
  if (said === undefined) return undefined;
  return said.exitCode === 0 ? nftFilter(said.stdout) : [];
}

interface IptablesTables {
  readonly tables: readonly FilterTable[];
  readonly usesNftables: boolean;
}

/** Both kinds of iptables may be in use at once; a host that has one kind only may know it by its plain name only. */
async function readIptables(
  commands: Commands,
  family: Family,
  signal: AbortSignal,
): Promise<IptablesTables> {
  const name = family === 4 ? 'iptables' : 'ip6tables';
  const read = async (program: string) => {
    const said = await ifInstalled(() => runTool(commands, `${program}-save`, [], signal));
    if (said === undefined) return undefined;
    return [...parseSaveAll(said.stdout)].map(([table, saved]) =>
      iptablesFilter(program, table, saved, family),
    );
  };
  const [nft, legacy] = [await read(`${name}-nft`), await read(`${name}-legacy`)];
  const tables =
    nft === undefined && legacy === undefined ? await read(name) : [...(nft ?? []), ...(legacy ?? [])];
  return { tables: tables ?? [], usesNftables: nft !== undefined };
}

async function ifInstalled<T>(run: () => Promise<T>): Promise<T | undefined> {
  try {
    return await run();
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}
