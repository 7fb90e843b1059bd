import process from 'node:process';

/** Has `listener` called at each SIGIO. The signal stays handled from the first time on: unhandled it ends the process. */
export function inputSignals(): (listener: () => void) => () => void {
  const listeners = new Set<() => void>();
  process.on('SIGIO', () => {
    for (const listener of listeners) listener();
  });
  return (listener) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  };
}
