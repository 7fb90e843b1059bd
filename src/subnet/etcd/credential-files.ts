import { codeOf, FlannelError } from '../../runtime/errors.ts';
import type { Files } from '../../runtime/files.ts';
import { systemReason } from '../../runtime/system-errors.ts';
import { CredentialsError, type FileText } from './pem.ts';

/** Reading is all that is done with these files. */
export type Reader = Pick<Files, 'readText'>;

/** Reads a file the way to etcd needs. `what` it is for goes into the message. Throws {@link CredentialsError}. */
export async function readNeeded(files: Reader, what: string, path: string): Promise<FileText> {
  let text: string | undefined;
  try {
    text = await files.readText(path);
  } catch (cause) {
    throw new CredentialsError(`${what} ${path} cannot be read: ${why(cause)}`, {
      cause,
      remedy: `${remedyOf(cause)}${hiddenBy(path)}`,
    });
  }
  if (text === undefined) {
    throw new CredentialsError(`${what} ${path} does not exist`, {
      remedy: `Put it there, or correct the flag that names it; the daemon keeps looking for it.${hiddenBy(path)}`,
    });
  }
  if (text.trim() === '') {
    throw new CredentialsError(`${what} ${path} is empty`, {
      remedy: 'Fill it; it is read again all the time.',
    });
  }
  return { path, text };
}

/** Folders that the unit of this program does not show to it (ProtectHome, PrivateTmp). */
function hiddenBy(path: string): string {
  return /^\/(home|root|run\/user|tmp|var\/tmp)\//.test(path)
    ? ' The systemd unit hides /home, /root and /tmp from the daemon: keep it in /etc.'
    : '';
}

const reasons: Readonly<Record<string, readonly [reason: string, remedy: string]>> = {
  EACCES: [
    'permission denied',
    'Let the user that the daemon runs as own it, with mode 0600. Under systemd root has no right to read what others own ' +
      '(CapabilityBoundingSet= without CAP_DAC_OVERRIDE).',
  ],
  EISDIR: ['it is a folder', 'Name the file in it.'],
  ENOTDIR: ['a part of its path is no folder', 'Correct the flag that names it.'],
};

function why(error: unknown): string {
  return reasons[codeOf(error) ?? '']?.[0] ?? systemReason(error);
}

function remedyOf(error: unknown): string {
  const given = error instanceof FlannelError ? error.remedy : undefined;
  return given ?? reasons[codeOf(error) ?? '']?.[1] ?? 'Check the file and the disk it lies on.';
}
