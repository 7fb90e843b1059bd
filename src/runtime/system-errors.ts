import { codeOf, messageOf } from './errors.ts';

const words: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'this process is not allowed to',
  ENOENT: 'there is no such file or folder',
  EISDIR: 'it is a folder',
  ENOTDIR: 'a part of its path is no folder',
  EROFS: 'its file system is read-only',
  ENOSPC: 'no space is left there',
  EDQUOT: 'no space is left there by quota',
  ELOOP: 'its symbolic links lead round in a circle',
  ENAMETOOLONG: 'its name is too long',
};

/**
 * Why the system refused something with a file, in words with the error's name behind: Node's own message names a system call, and its
 * paths are those of temporary files and folders. Of other errors the message.
 */
export function systemReason(error: unknown): string {
  const code = codeOf(error) ?? '';
  const known = words[code];
  return known === undefined ? messageOf(error).replace(/, [a-z]+ '.*$/s, '') : `${known} (${code})`;
}
