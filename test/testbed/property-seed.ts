import fc from 'fast-check';

/**
 * The one configuration of all property tests, read before each file of them: the same values on every run, unless
 * PROPERTY_SEED says otherwise (`npm run fuzz`). PROPERTY_PATH goes straight to one counterexample of that seed.
 */
const { PROPERTY_SEED: seed, PROPERTY_PATH: path } = process.env;

fc.configureGlobal({
  seed: Number(seed ?? 1),
  ...(path === undefined ? {} : { path }),
  // Reports leave causes out.
  includeErrorInReport: true,
});
