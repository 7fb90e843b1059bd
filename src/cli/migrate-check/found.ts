/** A process called flanneld, or flanneld-ts, in this network namespace. */
export interface FlanneldProcess {
  readonly pid: number;
  readonly name: 'flanneld' | 'flanneld-ts';
  /** The words behind the program's name. */
  readonly argv: readonly string[];
  /** Undefined: another user's process, and this one is not root's. */
  readonly env: Readonly<Record<string, string>> | undefined;
  /** Its unit of systemd: `flanneld.service`. */
  readonly unit?: string;
  readonly isInContainer: boolean;
}

/** A unit of systemd with its drop-ins, as its files say. */
export interface FoundUnit {
  readonly name: string;
  /** The unit's file, then its drop-ins in their order. */
  readonly paths: readonly string[];
  readonly environmentFiles: readonly EnvironmentFile[];
  /** Commands of ExecStart= and ExecStartPost=, each as words; variables are filled in. */
  readonly start: readonly (readonly string[])[];
  readonly startPost: readonly (readonly string[])[];
  readonly env: Readonly<Record<string, string>>;
}

export interface EnvironmentFile {
  readonly path: string;
  /** The dash in front: systemd goes on without it. */
  readonly isOptional: boolean;
  readonly exists: boolean;
}

/** What flanneld is started with. */
export interface FlanneldLine {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** The flanneld of this host, and what belongs to it. */
export interface FoundFlanneld {
  readonly processes: readonly FlanneldProcess[];
  /** Of the process, else flanneld.service or flannel.service. */
  readonly unit: FoundUnit | undefined;
  /** Of the process, else of the unit; undefined where nobody tells. */
  readonly line: FlanneldLine | undefined;
  readonly subnetFile: { readonly path: string; readonly text: string | undefined };
  readonly docker: FoundUnit | undefined;
  /** Docker's unit requires that of flanneld. */
  readonly isRequiredByDocker: boolean;
  /** Files that this user may not read. */
  readonly unreadable: readonly string[];
}

/**
 * What the check says about one thing.
 * - found: it is there. same: it stays as it is. changes: it works, and differently. ignored: it has no effect any more.
 * - blocks: it stands in the way.
 */
export interface Verdict {
  readonly what: 'found' | 'same' | 'changes' | 'ignored' | 'blocks';
  readonly text: string;
  /** What to do. */
  readonly remedy?: string;
}

const of = (what: Verdict['what']) => (text: string, remedy?: string) =>
  ({ what, text, ...(remedy !== undefined && { remedy }) }) satisfies Verdict;

export const found = of('found');
export const same = of('same');
export const changes = of('changes');
export const ignored = of('ignored');
export const blocks = of('blocks');
