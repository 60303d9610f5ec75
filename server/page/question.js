// What is asked, as the fields of a request: the one list that the form data and the printed commands are made of.

/** What the tasks are called, and how they read. */
export const TASKS = {
  detect: { verb: 'Detect', busy: 'Detecting', texts: 'Labels', hint: 'Boxes around what you name.' },
  classify: { verb: 'Classify', busy: 'Classifying', texts: 'Labels', hint: 'Which label fits the whole picture best.' },
  similarity: { verb: 'Compare', busy: 'Comparing', texts: 'Texts', hint: 'How close the picture is to each text, as a cosine.' },
};

/**
 * [name, value] of every field but the image, in the order they are printed in.
 *
 * `question` has task, model, way ("labels" or "prompt"), texts, prompt, threshold, and options by their field's name, an
 * empty one being left to the model.
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

/** Why `question` cannot be asked yet, or an empty text. */
export function lacking({ task, way, texts, prompt }) {
  if (task === 'detect' && way === 'prompt') return prompt.trim() ? '' : 'Write a prompt, like “a dog. a bicycle.”';
  if (texts.length) return '';
  return task === 'similarity' ? 'Write at least one text.' : 'Name at least one label.';
}

/** The body of a request: `image` (a file or blob) and the fields. */
export function formOf(image, name, fields) {
  const form = new FormData();
  form.append('image', image, name);
  for (const [field, value] of fields) form.append(field, value);
  return form;
}
