/** Put in by the build; absent when the sources run as they are. */
declare const FLANNELD_TS_VERSION: string;

/** The program's version, as in package.json; `development` without a build. */
export const VERSION = typeof FLANNELD_TS_VERSION === 'string' ? FLANNELD_TS_VERSION : 'development';
