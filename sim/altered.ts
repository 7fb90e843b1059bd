/** A part with some methods replaced; the others are those of `inner`. */
export function altered<T extends object>(inner: T, changes: Partial<NoInfer<T>>): T {
  return new Proxy(inner, {
    get: (target, name) => {
      if (name in changes) return Reflect.get(changes, name) as unknown;
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}
