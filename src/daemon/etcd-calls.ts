import type { MeasuredCall } from '../subnet/measured.ts';

/** Until somebody asks for metrics, no more than these are kept; the oldest go. */
const mostKept = 1_000;

/** Calls to etcd on their way to the metrics, whose library is loaded only when somebody asks for them. */
export class EtcdCalls {
  #kept: MeasuredCall[] = [];
  #onCall: ((call: MeasuredCall) => void) | undefined;

  add(call: MeasuredCall): void {
    if (this.#onCall !== undefined) return this.#onCall(call);
    if (this.#kept.length >= mostKept) this.#kept.shift();
    this.#kept.push(call);
  }

  /** Hands over those kept, and from now on each as it ends. */
  handTo(onCall: (call: MeasuredCall) => void): void {
    this.#onCall = onCall;
    for (const call of this.#kept) onCall(call);
    this.#kept = [];
  }
}
