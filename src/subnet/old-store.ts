/**
 * etcd's v2 store. Old versions of flannel (0.7.1 of CentOS 7 among them) keep their network there, where the v3 API does not show it.
 */
export interface OldStore {
  /**
   * Whether it has this key; undefined when that is not to be learnt: most etcds of today do not serve it. Rejects with
   * `signal.reason` and nothing else.
   */
  has(key: string, signal: AbortSignal): Promise<boolean | undefined>;
}
