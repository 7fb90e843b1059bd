import { FlannelError } from '../runtime/errors.ts';

/**
 * A network configuration that cannot be used. `message` names the key, its value and the rule it breaks; `key` is the
 * key's proper name, empty when the text as a whole is at fault. `code`:
 *
 * - CONFIG_SYNTAX: not a JSON object. CONFIG_TYPE: a value of the wrong kind.
 * - CONFIG_MISSING: a key that is required here. CONFIG_FAMILY: both families are off.
 * - CONFIG_LENGTH, CONFIG_RANGE, CONFIG_BOUNDARY, CONFIG_ORDER: the numbers do not fit one another.
 * - CONFIG_BACKEND: a backend other than host-gw.
 */
export class NetworkConfigError extends FlannelError {
  readonly key: string;

  constructor(code: ConfigErrorCode, key: string, message: string, remedy: string, cause?: unknown) {
    super(`CONFIG_${code}`, message, { remedy, cause });
    this.key = key;
  }
}

type ConfigErrorCode =
  | 'SYNTAX'
  | 'TYPE'
  | 'MISSING'
  | 'FAMILY'
  | 'LENGTH'
  | 'RANGE'
  | 'BOUNDARY'
  | 'ORDER'
  | 'BACKEND';
