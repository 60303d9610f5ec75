// The fields of a request: one list, from which form data and printed commands are made.

import { lowestOf } from './thresholds.js';

/** The tasks and their texts on the page. */
export const TASKS = {
  detect: { verb: 'Detect', busy: 'Detecting', texts: 'Labels', hint: 'Boxes around the objects you name.' },
  classify: { verb: 'Classify', busy: 'Classifying', texts: 'Labels', hint: 'Which label fits the whole image best.' },
  similarity: { verb: 'Compare', busy: 'Comparing', texts: 'Texts', hint: 'Cosine similarity of the image and each text.' },
};

/**
 * [name, value] of every field but the image, in the order of the printed commands.
 *
 * `question` has task, model, way ("labels" or "prompt"), texts, prompt, box_threshold, and options by field name; an
 * empty option is left to the model.
 */
export function fieldsOf(question) {
  const { task, model, way, texts, prompt } = question;
  const named = (name, values) => values.map((value) => [name, value]);
  const set = (...names) => names.filter((name) => (question[name] ?? '') !== '').map((name) => [name, question[name]]);
  const fields = [['model', model]];
  if (task === 'similarity') return [...fields, ...named('texts', texts)];
  fields.push(...(task === 'detect' && way === 'prompt' ? [['prompt', prompt]] : named('labels', texts)));
  if (task === 'detect') return [...fields, ...set('box_threshold', 'text_threshold', 'nms_iou', 'max_detections', 'shorter')];
  fields.push(...named('templates', question.templates));
  return question.multi_label ? [...fields, ['multi_label', true]] : fields;
}

/** The fields that are sent: with the lowest threshold, since one response serves every higher one. */
export function sentFieldsOf(question, model) {
  return fieldsOf({ ...question, box_threshold: question.task === 'detect' ? lowestOf(model) : '' });
}

/** The reason why `question` cannot be sent yet, or an empty string. */
export function lacking({ task, way, texts, prompt }) {
  if (task === 'detect' && way === 'prompt') return prompt.trim() ? '' : 'Enter a prompt, like “a dog. a bicycle.”';
  if (texts.length) return '';
  return task === 'similarity' ? 'Enter at least one text.' : 'Enter at least one label.';
}

/** The fields that are lists of texts. */
export const LISTS = new Set(['labels', 'texts', 'templates']);

/** `fields` as a form has them: a list of texts that could be read as more or fewer is one field with a JSON array. */
export function formFields(fields) {
  return grouped(fields).flatMap(([name, values]) => {
    const exact = !LISTS.has(name) || !values.some((value) => /[,;|\t\n\r]|\.\s+\S|^\s*\[/.test(value));
    return exact ? values.map((value) => [name, value]) : [[name, JSON.stringify(values)]];
  });
}

/** [name, values] of `fields`, each name once. */
export function grouped(fields) {
  const groups = new Map();
  for (const [name, value] of fields) groups.set(name, [...(groups.get(name) ?? []), value]);
  return [...groups];
}

/** The body of a request: `image` (a file or blob) and the fields. */
export function formOf(image, name, fields) {
  const form = new FormData();
  form.append('image', image, name);
  for (const [field, value] of formFields(fields)) form.append(field, value);
  return form;
}
