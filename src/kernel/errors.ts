import { FlannelError } from '../runtime/errors.ts';

/** A kernel call that failed as a whole. `errno` by name, e.g. `EPERM`; `TIMEOUT` when no answer came. */
export class KernelError extends FlannelError {
  readonly errno: string;

  constructor(errno: string, message: string, options: { cause?: unknown; remedy?: string } = {}) {
    super(`KERNEL_${errno}`, message, options);
    this.errno = errno;
  }
}
