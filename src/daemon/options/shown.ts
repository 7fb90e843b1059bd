import { quote } from './errors.ts';

// What of a wrong command line may be repeated: a password may stand in any word of one that has to do with passwords.

const HIDDEN = '(not shown)';
/** The last for a URL: it may have user and password in it. */
const ABOUT_SECRETS = /pas+w|user|secret|cred|token|@/i;

/**
 * The name of a flag that does not exist, without its value. `--etcd-passwordhunter2` and `--etcd-password:hunter2` have
 * theirs in the name, so such a name ends, for a reader, where "password" does.
 */
export function shownName(name: string): string {
  const [, word = name, rest = ''] = /^(.*?pas+w(?:ord|d)?)(.*)$/is.exec(name) ?? [];
  // …-file, or what was meant as that, tells nothing.
  const shown = rest === '' || /^[-_]f/i.test(rest) ? name : `${word}…`;
  return quote(name.length === 1 ? `-${shown}` : `--${shown}`);
}

/** A word, up to the value that may be in it. */
export function shownWord(word: string): string {
  const [before = ''] = word.split('=', 1);
  return quote(before === word ? word : `${before}=…`);
}

/** A value that its flag does not allow. An endpoint that got in the place of another flag's may have a password in it. */
export function shownValue(text: string): string {
  return text.includes('@') ? HIDDEN : quote(text);
}

/** Whether a word looks like a flag that has a password after its equals sign. */
export function holdsPassword(word: string): boolean {
  return /^--?[^=]*pas+w[^=]*=./is.test(word);
}

/**
 * The words after the flags. Where the command line is about a user or a password, only flags of the `known` names are
 * shown, and without their values.
 */
export function shownRest(
  argv: readonly string[],
  rest: readonly string[],
  known: ReadonlySet<string>,
): string {
  if (!argv.some((word) => ABOUT_SECRETS.test(word))) return rest.map(quote).join(' ');
  return rest
    .map((word) => {
      const [, name = ''] = /^--?([^=]*)/.exec(word) ?? [];
      return known.has(name) ? shownWord(word) : HIDDEN;
    })
    .join(' ');
}
