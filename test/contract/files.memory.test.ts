import { SimFiles } from '../../sim/files.ts';
import { filesContract } from './files.ts';

filesContract('in memory', () => {
  const files = new SimFiles();
  return {
    files,
    folder: '/tmp/files',
    modeOf: (path) => files.modeOf(path),
    remove: (path) => files.remove(path),
    quiet: async () => {},
  };
});
