import { escaped } from './escape.ts';

/**
 * Text from outside, made fit for one log line: control, bidirectional and other invisible characters, and blanks and dashes
 * that only look like those of ASCII, are written as `\u001b`, and what exceeds `maxLength` characters is cut and marked with `…`. A terminal shows what is there, whoever wrote it.
 */
export function excerpt(text: string, maxLength = 100): string {
  // \p{C} includes lone surrogates, also the half of a pair that the cut leaves behind.
  const shown = text.slice(0, maxLength).replaceAll(/(?![ -])[\p{C}\p{Z}\p{Pd}\u2212]/gu, escaped);
  return text.length > maxLength ? `${shown}…` : shown;
}
