// The question in the address of the page, after "#": a link that brings labels and settings back, never a picture.

const SINGLE = ['task', 'model', 'compare', 'way', 'prompt', 'example'];
const LISTS = ['texts', 'templates'];
const NUMBERS = ['box_threshold', 'compare_threshold', 'nms_iou', 'max_detections', 'text_threshold', 'shorter'];

/** The fragment for `question`, whose fields are flat: texts, lists of texts, numbers and multi_label; empty ones are left out. */
export function fragmentOf(question) {
  const pairs = new URLSearchParams();
  const put = (name, value) => value !== '' && value !== null && value !== undefined && pairs.append(name, value);
  const left = question.way === 'prompt' ? 'texts' : 'prompt'; // the one that is not asked
  for (const name of [...SINGLE, ...NUMBERS]) if (name !== left) put(name, question[name]);
  for (const name of LISTS) if (name !== left) for (const value of question[name] ?? []) put(name, value);
  if (question.multi_label) put('multi_label', true);
  return `#${pairs}`;
}

/** The question in a `fragment`, with the fields that it has; null if it has none. What it holds is a stranger's text. */
export function questionIn(fragment) {
  const pairs = new URLSearchParams(fragment.replace(/^#/, ''));
  if (!['detect', 'classify', 'similarity'].includes(pairs.get('task'))) return null;
  const question = {};
  for (const name of SINGLE) if (pairs.has(name)) question[name] = pairs.get(name);
  for (const name of LISTS) question[name] = pairs.getAll(name);
  for (const name of NUMBERS) if (pairs.get(name) && Number.isFinite(Number(pairs.get(name)))) question[name] = Number(pairs.get(name));
  question.multi_label = pairs.get('multi_label') === 'true';
  return question;
}
