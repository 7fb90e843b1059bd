import type { Notifier } from '../src/runtime/effects.ts';

/** A service manager in memory: keeps what it was told, one assignment per entry. */
export class SimNotifier implements Notifier {
  readonly sent: string[] = [];
  watchdogMs?: number;

  get isReady(): boolean {
    return this.sent.includes('READY=1');
  }

  ready(): void {
    this.sent.push('READY=1');
  }

  status(text: string): void {
    this.sent.push(`STATUS=${text.replaceAll(/[\p{Cc}\u2028\u2029]+/gu, ' ').trim()}`);
  }

  alive(): void {
    this.sent.push('WATCHDOG=1');
  }

  stopping(): void {
    this.sent.push('STOPPING=1');
  }
}
