// The fields of a request: one list, from which form data and printed commands are made.

/** The tasks and their texts on the page. */
export const TASKS = {
  detect: { verb: 'Detect', busy: 'Detecting', texts: 'Labels', hint: 'Boxes around the objects you name.' },
  classify: { verb: 'Classify', busy: 'Classifying', texts: 'Labels', hint: 'Which label fits the whole image best.' },
  similarity: { verb: 'Compare', busy: 'Comparing', texts: 'Texts', hint: 'Cosine similarity of the image and each text.' },
};

/**
 * [name, value] of every field but the image, in the order of the printed commands.
 *
 * `question` has task, model, way ("labels" or "prompt"), texts, prompt, threshold, and options by field name; an empty
 * option is left to the model.
 */
export function fieldsOf({ task, model, way, texts, prompt, threshold, options }) {
  const named = (name, values) => values.map((value) => [name, value]);
  const set = (...names) => names.filter((name) => options[name] !== '').map((name) => [name, options[name]]);
  const fields = [['model', model]];
  if (task === 'similarity') return [...fields, ...named('texts', texts)];
  fields.push(...(task === 'detect' && way === 'prompt' ? [['prompt', prompt]] : named('labels', texts)));
  if (task === 'detect') return [...fields, ['box_threshold', threshold], ...set('nms_iou', 'max_detections')];
  fields.push(...named('templates', options.templates));
  return options.multi_label ? [...fields, ['multi_label', true]] : fields;
}

/** The reason why `question` cannot be sent yet, or an empty string. */
export function lacking({ task, way, texts, prompt }) {
  if (task === 'detect' && way === 'prompt') return prompt.trim() ? '' : 'Enter a prompt, like “a dog. a bicycle.”';
  if (texts.length) return '';
  return task === 'similarity' ? 'Enter at least one text.' : 'Enter at least one label.';
}

/** The body of a request: `image` (a file or blob) and the fields. */
export function formOf(image, name, fields) {
  const form = new FormData();
  form.append('image', image, name);
  for (const [field, value] of fields) form.append(field, value);
  return form;
}
