import fc from 'fast-check';

/** A step of a model of `World`; its text names it, with what was drawn for it. */
export type ModelStep<World> = (world: World) => unknown;

/** Makes steps that are drawn `weight` times as often as one of weight 1, with what is drawn for them. */
export const stepsOf =
  <World>() =>
  <T>(weight: number, name: string, drawn: fc.Arbitrary<T>, run: (world: World, drawn: T) => unknown) => ({
    weight,
    arbitrary: drawn.map(
      (value): ModelStep<World> =>
        Object.assign((world: World) => run(world, value), {
          toString: () => `${name} ${fc.stringify(value)}`,
        }),
    ),
  });
