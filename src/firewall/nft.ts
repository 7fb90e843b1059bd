import type { Family } from '../ip/ip.ts';
import type { Commands } from '../runtime/commands.ts';
import { nftTableName } from './nft-plan.ts';
import { type NftTable, parseNftTable } from './nft-ruleset.ts';
import { runTool } from './tool.ts';

/** nft of this host. */
export class Nft {
  readonly #commands: Commands;

  constructor(commands: Commands) {
    this.#commands = commands;
  }

  /** What our table holds, undefined when there is none; one process. Rejects with a FlannelError. */
  async read(family: Family, signal: AbortSignal): Promise<NftTable | undefined> {
    const args = ['-j', 'list', 'table', ...nftTableName(family).split(' ')];
    // Of the table; the dynamic loader says the same of a library.
    const tolerated = /^Error: No such file or directory/m;
    const { exitCode, stdout } = await runTool(this.#commands, 'nft', args, signal, { tolerated });
    return exitCode === 0 ? parseNftTable(stdout) : undefined;
  }

  /** Hands a script to nft, which does all of it or nothing. */
  async apply(script: string, signal: AbortSignal): Promise<void> {
    await runTool(this.#commands, 'nft', ['-f', '-'], signal, { stdin: script });
  }
}
