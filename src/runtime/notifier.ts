/**
 * What the service manager is told (systemd's sd_notify protocol). Calls never throw and never wait: a service manager
 * that does not listen is no reason to stop routing.
 */
export interface Notifier {
  /** READY=1: the files are written and the first route sync is done. */
  ready(): void;
  /** STATUS=…: one line for `systemctl status`; newlines are flattened. */
  status(text: string): void;
  /** How long the service manager waits for the next `alive` before it starts the process anew; absent: for ever. */
  readonly watchdogMs?: number;
  /** WATCHDOG=1. */
  alive(): void;
  /** STOPPING=1. */
  stopping(): void;
}
