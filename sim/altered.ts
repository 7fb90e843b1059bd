type Method = (...args: unknown[]) => unknown;

/** A part with some methods replaced; the others are those of `inner`, as `wrap` changes each. */
export function altered<T extends object>(
  inner: T,
  changes: Partial<NoInfer<T>>,
  wrap = (method: Method): Method => method,
): T {
  return new Proxy(inner, {
    get: (target, name) => {
      if (name in changes) return Reflect.get(changes, name) as unknown;
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? wrap(value.bind(target) as Method) : value;
    },
  });
}
