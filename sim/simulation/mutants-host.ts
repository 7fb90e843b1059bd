import { broken, type Mutant } from './mutant.ts';

/** What may be broken between the daemon and its host's files, settings and firewall. */
export const hostMutants: Readonly<Record<string, Mutant>> = {
  'files are not read': broken('files', () => ({ readText: () => Promise.resolve(undefined) })),
  'files are thought to be as they were written': broken('files', (inner) => {
    const written = new Map<string, string>();
    return {
      readText: async (path) => written.get(path) ?? (await inner.readText(path)),
      writeAtomic: async (path, content, mode) => {
        await inner.writeAtomic(path, content, mode);
        written.set(path, content);
      },
    };
  }),
  'changes of files are not heard of': broken('files', () => ({ watch: () => () => undefined })),
  'forwarding is taken for on': broken('files', (inner) => ({
    readText: async (path) => (path.startsWith('/proc/') ? '1\n' : await inner.readText(path)),
  })),
  'rules that drop are not seen': broken('commands', (inner) => ({
    run: async (...call) => {
      const result = await inner.run(...call);
      return { ...result, stdout: result.stdout.replaceAll(/^.* -j DROP\n/gm, '') };
    },
  })),
};
