/** The characters as `\u001b`, UTF-16 unit by unit. */
export function escaped(characters: string): string {
  return characters
    .split('')
    .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
    .join('');
}

/** JSON with every control character of its texts escaped; JSON itself leaves DEL, C1 and U+2028 as they are. */
export function escapeControls(json: string): string {
  return json.replaceAll(/[\u007f-\u009f\u2028\u2029]/g, escaped);
}

/** The text with a space for every run of control characters and newlines, none at its ends. */
export function oneLine(text: string): string {
  return text.replaceAll(/[\p{Cc}\u2028\u2029]+/gu, ' ').trim();
}
