import type { Kernel } from '../kernel/kernel.ts';
import { FlannelError } from '../runtime/errors.ts';

/** The host cannot do what the daemon is for. Ends it with exit code 1, before anything was touched. */
export class CannotRunError extends FlannelError {}

/** Rejects with {@link CannotRunError}, naming the capability, when this process may not change routes. */
export async function requireCapabilities(kernel: Kernel): Promise<void> {
  const missing = await kernel.missingCapabilities();
  if (missing.length === 0) return;
  throw new CannotRunError(
    'NO_PERMISSION',
    `routes cannot be changed: this process lacks ${missing.join(', ')}`,
    {
      remedy: `Run as root, or give it ${missing.join(', ')} (systemd: AmbientCapabilities=, docker: --cap-add).`,
    },
  );
}
