import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

/** A host as its processes see it. */
export interface HostPlace {
  /** Its network namespace, under /run/netns; default: the machine's own network. */
  readonly namespace?: string;
  /** Its host name; default: the machine's. */
  readonly hostname?: string;
  /** Its folder: `dir/run` is the host's /run, so that the real paths can be used and nothing meets. */
  readonly dir: string;
  /** A file that its processes see as /etc/hosts; default: the machine's. */
  readonly hostsFile?: string;
}

/** The host's /run as this process sees it. */
export const runFolder = (place: HostPlace): string => join(place.dir, 'run');

/**
 * The command line that runs `argv` on the host, in one process: each step execs the next. `more` are further namespaces
 * for unshare. /run is private also because dockerd takes over the machine's containerd, and with it the machine's
 * containers, when it finds that socket.
 */
export function onHost(
  place: HostPlace,
  argv: readonly string[],
  more: readonly string[] = [],
): readonly string[] {
  mkdirSync(runFolder(place), { recursive: true });
  const network =
    place.namespace === undefined ? [] : ['nsenter', `--net=/run/netns/${place.namespace}`, '--'];
  const namespaces = ['unshare', '--mount', '--uts', ...more, '--'];
  return [
    ...network,
    ...namespaces,
    'sh',
    '-ec',
    ENTER,
    'sh',
    runFolder(place),
    place.hostname ?? '',
    place.hostsFile ?? '',
    ...argv,
  ];
}

const ENTER = `
mount --bind "$1" /run
[ -z "$2" ] || hostname "$2"
[ -z "$3" ] || mount --bind "$3" /etc/hosts
shift 3
exec "$@"`;
