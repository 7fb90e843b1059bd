import { messageOf } from '../../runtime/errors.ts';
import { jsonFields } from '../../subnet/config/json.ts';
import { judgeConfig } from '../../subnet/config/judge.ts';
import { askingEtcd, complain, type ExitCode, printJson } from '../output.ts';
import { readConfig } from './read.ts';
import { type StoreParts, sayFaults, storeConfig } from './store.ts';

/** A file that an operator edits. */
export interface Draft {
  readonly path: string;
  /** Opens the editor; resolves to the text when the editor has ended. Rejects when it fails. */
  edit(): Promise<string>;
  remove(): Promise<void>;
}

export interface EditParts extends StoreParts {
  /** Makes a draft with this text. */
  readonly draft: (text: string) => Promise<Draft>;
}

const template = `{
  "Network": "10.244.0.0/16",
  "Backend": { "Type": "host-gw" }
}`;

/**
 * `config edit`: opens the configuration, or an example where there is none, in an editor and stores the result as `config set` does,
 * guarded by the revision that was read before. A text that is not stored stays in its file.
 *
 * Resolves to the exit code of `config set`, and to 1 when the editor fails. Rejects only with `signal.reason`.
 */
export async function editConfig(parts: EditParts, signal: AbortSignal): Promise<ExitCode> {
  return await askingEtcd(parts, signal, async () => {
    const before = await readConfig(parts, signal);
    const offered = before === undefined ? template : laidOut(before.value);
    const draft = await parts.draft(`${offered}\n`);
    for (;;) {
      let text: string;
      try {
        text = await draft.edit();
      } catch (error) {
        await draft.remove();
        complain(parts, `the editor failed: ${messageOf(error)}; nothing was stored`, 'EDITOR_FAILED');
        return 1;
      }
      const judgement = judgeConfig(text);
      if (judgement.text === offered.trim()) {
        await draft.remove();
        if (parts.json) printJson(parts, { stored: false, why: 'nothing was changed' });
        else parts.out('nothing was changed');
        return 0;
      }
      const { config } = judgement;
      if (config === undefined) {
        sayFaults(parts, draft.path, judgement);
        if (await parts.confirm?.('Edit it again?')) continue;
        if (!parts.json) parts.err(`nothing was stored; your text is in ${draft.path}`);
        return 1;
      }
      let code: ExitCode | undefined;
      try {
        code = await storeConfig(parts, { before, text: judgement.text, config }, signal);
        return code;
      } finally {
        if (code === 0) await draft.remove();
        else parts.err(`your text is in ${draft.path}`);
      }
    }
  });
}

/** On lines of its own for each key; as it is where that could lose something, or it is laid out already. */
function laidOut(text: string): string {
  try {
    const keys = jsonFields(text).map(({ key }) => key);
    if (text.includes('\n') || new Set(keys).size < keys.length) return text;
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
