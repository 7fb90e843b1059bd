import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { onHost } from '../testbed/host.ts';
import { tempDir } from '../testbed/run.ts';
import { combinations } from './mk-docker-opts-combinations.ts';

const SCRIPT = join(import.meta.dirname, '../../systemd/mk-docker-opts.sh');

describe.each(['dash', 'bash', 'bash --posix', 'busybox sh'])(
  'mk-docker-opts.sh with each option, %s',
  (shell) => {
    let dir: string;
    beforeEach(() => {
      dir = tempDir('mk-docker-opts');
    });
    afterEach(() => rmSync(dir, { recursive: true }));

    test.each(combinations())('$label', (run) => {
      const { args, env, subnetFile, subnetEnv, outputFile, expected } = run;
      const onThisHost = (path: string) => join(dir, path);
      mkdirSync(join(dir, 'run/elsewhere'), { recursive: true });
      mkdirSync(join(dir, 'run/flannel'));
      writeFileSync(onThisHost(subnetFile), subnetEnv);
      const [program = '', ...words] = onHost({ dir }, [...shell.split(' '), SCRIPT, ...args]);
      const { status, stderr, stdout } = spawnSync(program, words, {
        env: { PATH: process.env['PATH'], ...env },
        encoding: 'utf8',
      });
      expect({ status, stderr, stdout }).toEqual({ status: 0, stderr: '', stdout: '' });
      expect(readFileSync(onThisHost(outputFile), 'utf8')).toBe(expected);
      const files = readdirSync(onThisHost('/run'), { recursive: true, withFileTypes: true });
      const written = files
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name));
      expect(written.toSorted()).toEqual([subnetFile, outputFile].map(onThisHost).toSorted());
    });
  },
);
