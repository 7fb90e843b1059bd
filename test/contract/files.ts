import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Files } from '../../src/runtime/effects.ts';

export interface FilesUnderTest {
  readonly files: Files;
  /** An empty folder of its own. */
  readonly folder: string;
  modeOf(path: string): number | undefined;
  /** As another program removes a file. */
  remove(path: string): void;
  /** Resolves when all that has happened was told of. */
  quiet(): Promise<void>;
}

/** What {@link Files} promises, for every implementation. */
export function filesContract(name: string, setup: () => FilesUnderTest): void {
  describe(`files: ${name}`, () => {
    let under: FilesUnderTest;

    beforeEach(() => {
      under = setup();
    });

    it('reads undefined where there is no file, nor its folder', async () => {
      expect(await under.files.readText(`${under.folder}/none`)).toBeUndefined();
      expect(await under.files.readText(`${under.folder}/no/folder`)).toBeUndefined();
    });

    it('reads back what was written, with the mode asked for, in folders it made', async () => {
      const path = `${under.folder}/a/b/subnet.env`;
      await under.files.writeAtomic(path, 'FLANNEL_MTU=1500\n', 0o644);
      expect(await under.files.readText(path)).toBe('FLANNEL_MTU=1500\n');
      expect(under.modeOf(path)).toBe(0o644);
    });

    it('replaces content and mode', async () => {
      const path = `${under.folder}/file`;
      await under.files.writeAtomic(path, 'one, and longer', 0o600);
      await under.files.writeAtomic(path, 'two', 0o644);
      expect(await under.files.readText(path)).toBe('two');
      expect(under.modeOf(path)).toBe(0o644);
    });

    it('names the same file by any spelling of its path', async () => {
      await under.files.writeAtomic(`${under.folder}/x/../file`, 'text', 0o644);
      expect(await under.files.readText(`${under.folder}/./file`)).toBe('text');
    });

    it('writes in place to a file that is there, keeps its mode, and makes none', async () => {
      const path = `${under.folder}/setting`;
      await expect(under.files.writeInPlace(path, '1\n')).rejects.toMatchObject({ code: 'ENOENT' });
      expect(await under.files.readText(path)).toBeUndefined();
      await under.files.writeAtomic(path, 'long before\n', 0o600);
      await under.files.writeInPlace(path, '1\n');
      expect(await under.files.readText(path)).toBe('1\n');
      expect(under.modeOf(path)).toBe(0o600);
      await expect(under.files.writeInPlace(under.folder, 'x')).rejects.toMatchObject({ code: 'EISDIR' });
    });

    it('tells of a watched file that is made, replaced, written to or removed, until it need not', async () => {
      const path = `${under.folder}/watched/file`;
      await under.files.writeAtomic(`${under.folder}/watched/other`, 'text', 0o644);
      let told = 0;
      const stop = under.files.watch(path, () => told++);
      const steps: readonly (() => Promise<void>)[] = [
        () => under.files.writeAtomic(path, 'one', 0o644),
        () => under.files.writeAtomic(path, 'two', 0o644),
        () => under.files.writeInPlace(path, 'three'),
        async () => under.remove(path),
      ];
      for (const step of steps) {
        const before = told;
        await step();
        await vi.waitFor(() => expect(told).toBeGreaterThan(before));
        await under.quiet();
      }
      const before = told;
      await under.files.writeAtomic(`${under.folder}/watched/other`, 'changed', 0o644);
      await under.quiet();
      expect(told).toBe(before);
      stop();
      await under.files.writeAtomic(path, 'four', 0o644);
      await under.quiet();
      expect(told).toBe(before);
    });

    it('tells of a watched file whose folders are not there yet', async () => {
      const path = `${under.folder}/not/yet/file`;
      let told = 0;
      const stop = under.files.watch(path, () => told++);
      await under.files.writeAtomic(path, 'one', 0o644);
      await vi.waitFor(() => expect(told).toBeGreaterThan(0));
      stop();
    });

    it('rejects with EISDIR for a folder, and changes nothing', async () => {
      await under.files.writeAtomic(`${under.folder}/sub/file`, 'text', 0o644);
      await expect(under.files.readText(`${under.folder}/sub`)).rejects.toMatchObject({ code: 'EISDIR' });
      await expect(under.files.writeAtomic(`${under.folder}/sub`, 'x', 0o644)).rejects.toMatchObject({
        code: 'EISDIR',
      });
      expect(await under.files.readText(`${under.folder}/sub/file`)).toBe('text');
    });

    it('rejects with ENOTDIR when a file stands where a folder is needed', async () => {
      await under.files.writeAtomic(`${under.folder}/file`, 'text', 0o644);
      const inside = under.files.writeAtomic(`${under.folder}/file/inner`, 'x', 0o644);
      await expect(inside).rejects.toMatchObject({ code: expect.stringMatching(/^(ENOTDIR|EEXIST)$/) });
      expect(await under.files.readText(`${under.folder}/file`)).toBe('text');
    });
  });
}
