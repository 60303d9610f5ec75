// A request as runnable code: for a POSIX shell with curl, and for Python without packages.

import { LISTS, formFields, grouped } from './question.js';

const WIDTH = 88; // of a line of printed commands, if possible
const KEY_VARIABLE = 'OPENSET_API_KEY';
const PRINTS = {
  detect: ['for found in answer["results"][0]["detections"]:', '    print(found["label"], found["score"], found["box"])'],
  classify: ['for found in answer["results"][0]["scores"]:', '    print(found["label"], found["score"])'],
  similarity: ['print(answer["similarity"][0])'],
};

/**
 * The curl command for `task` with `fields` ([name, value]) at the server whose address is `base`.
 *
 * `image` has a name, and a url if it is one of the server's examples, which is then piped in.
 */
export function curl({ task, fields, image, base, keyed }) {
  const file = image.url ? 'image=@-' : `image=@${fileName(image.name)}`;
  const lines = [`${image.url ? `curl -s ${quoted(image.url)} | ` : ''}curl -F ${quoted(file)}`];
  for (const [name, values] of grouped(formFields(fields))) lines.push(...folded(values.map((value) => part(name, String(value)))));
  if (keyed) lines.push(`-H "Authorization: Bearer $${KEY_VARIABLE}"`);
  return [...lines, quoted(base + task)].join(' \\\n  ');
}

/** The same request as a Python program. */
export function python({ task, fields, image, base, keyed }) {
  const opened = image.url ? `urllib.request.urlopen(${text(image.url)})` : `open(${text(image.name)}, "rb")`;
  const body = grouped(fields).map(([name, values]) => {
    const value = LISTS.has(name) ? `[${values.map(text).join(', ')}]` : literal(values[0]);
    return `    ${text(name)}: ${value},`;
  });
  const headers = ['"Content-Type": "application/json"'];
  if (keyed) headers.push(`"Authorization": "Bearer " + os.environ["${KEY_VARIABLE}"]`);
  return [
    'import base64', 'import json', ...(keyed ? ['import os'] : []), 'import urllib.request', '',
    `with ${opened} as file:`, '    image = base64.b64encode(file.read()).decode()',
    'body = {', '    "image": image,', ...body, '}',
    'request = urllib.request.Request(', `    ${text(base + task)},`, '    json.dumps(body).encode(),',
    `    {${headers.join(', ')}},`, ')',
    'with urllib.request.urlopen(request) as response:', '    answer = json.load(response)',
    ...PRINTS[task],
  ].join('\n');
}

/** The prerequisites of a command, as a text. */
export function needs({ image, keyed }) {
  const folder = image.url ? '' : `Run it in the folder of ${image.name}. `;
  return folder + (keyed ? `The key is read from the environment: export ${KEY_VARIABLE}=…` : '');
}

function folded(parts) {
  return parts.reduce((lines, next) => {
    const longer = `${lines.at(-1)} ${next}`;
    return lines.length && longer.length <= WIDTH ? [...lines.slice(0, -1), longer] : [...lines, next];
  }, []);
}

/** `-F` interprets some characters of a value (@ < ; "), `--form-string` none. */
function part(name, value) {
  const plain = /^[\p{L}\p{N}][\p{L}\p{N} .,'{}_-]*$/u.test(value);
  return `${plain ? '-F' : '--form-string'} ${quoted(`${name}=${value}`)}`;
}

/** A file name for `-F`, in which commas, semicolons and quotes must be quoted. */
function fileName(name) {
  const path = name.startsWith('-') ? `./${name}` : name;
  return /^[\p{L}\p{N} ._/-]+$/u.test(path) ? path : `"${path.replace(/(["\\])/g, '\\$1')}"`;
}

function quoted(word) {
  return /^[\w@%+=:./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

const text = (value) => JSON.stringify(value); // a JSON string is a Python string literal

function literal(value) {
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  return JSON.stringify(value);
}
