import { altered } from '../altered.ts';
import type { Wrappers } from '../host.ts';

/** What may be broken between the daemon and its host's files, settings and firewall. */
export const hostMutants: Readonly<Record<string, () => Wrappers>> = {
  'files are not read': () => ({
    files: (inner) => altered(inner, { readText: () => Promise.resolve(undefined) }),
  }),
  'files are thought to be as they were written': () => ({
    files: (inner) => {
      const written = new Map<string, string>();
      return altered(inner, {
        readText: async (path) => written.get(path) ?? (await inner.readText(path)),
        writeAtomic: async (path, content, mode) => {
          await inner.writeAtomic(path, content, mode);
          written.set(path, content);
        },
      });
    },
  }),
  'changes of files are not heard of': () => ({
    files: (inner) => altered(inner, { watch: () => () => undefined }),
  }),
  'forwarding is taken for on': () => ({
    files: (inner) =>
      altered(inner, {
        readText: async (path) => (path.startsWith('/proc/') ? '1\n' : await inner.readText(path)),
      }),
  }),
  'rules that drop are not seen': () => ({
    commands: (inner) => ({
      run: async (...call) => {
        const result = await inner.run(...call);
        return { ...result, stdout: result.stdout.replaceAll(/^.* -j DROP\n/gm, '') };
      },
    }),
  }),
};
