import { randomBytes } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The environment variable that carries the run's name to every process the run starts. */
export const RUN_VARIABLE = 'TEST_RUN_OF_FLANNELD_TS';

/**
 * The name of this run. Namespaces, folders, control groups and processes (by their environment) carry it, so that
 * whoever started the run can find what is left of it (leftovers.ts), and two runs on one machine never meet.
 */
export function runId(): string {
  const given = process.env[RUN_VARIABLE];
  if (given !== undefined && given !== '') return given;
  const id = newRunId('ft');
  process.env[RUN_VARIABLE] = id;
  return id;
}

/** A name for a run of its own; `prefix` tells people what kind of run it was. */
export function newRunId(prefix: string): string {
  return `${prefix}${randomBytes(3).toString('hex')}`;
}

/** A name nobody else uses: `<run>-<6 hex digits>`. */
export function uniqueName(): string {
  return `${runId()}-${randomBytes(3).toString('hex')}`;
}

/** Makes an empty folder for this run (mode 0700); the caller removes it. */
export function tempDir(purpose: string): string {
  return mkdtempSync(join(tmpdir(), `${runId()}-${purpose}-`));
}
