// The page: sends an image and the form as a request, shows the result, and prints both as code.

import { Answer } from './answer.js';
import { Code } from './code.js';
import { EXAMPLES, addressOf, mark, offer } from './examples.js';
import { askForKey } from './keydialog.js';
import { drawn } from './overlay.js';
import * as picture from './picture.js';
import { TASKS, fieldsOf, formOf, lacking } from './question.js';
import { Problem, ask, isOpen, key, models } from './server.js';
import * as snippets from './snippets.js';
import { lowestOf } from './thresholds.js';
import { Tokens } from './tokens.js';

const find = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const POLL_MS = 1000;
const NARROW = matchMedia('(max-width: 54rem)'); // as in page.css: the result is below the form

const asked = { detect: [], classify: [], similarity: [] }; // the texts last entered for each task
let task = chosen('task');
let served = [];
let limits = {};
let shown = null; // the image: blob, name, example (or null), url (of an example), visible (in this browser)
let brought = 0; // number of images chosen; an example that arrives after a later choice is dropped
let arriving = Promise.resolve(); // the download of the chosen example
let pending = null; // the AbortController of the request in progress

const answer = new Answer(() => {
  code.render();
  find('download').disabled = !(answer.shown.length && shown?.visible);
});
const code = new Code(textOf);
const tokens = new Tokens(find('token-list'), find('token'), {
  onChange: changed,
  onEnter: () => !pending && find('question').requestSubmit(),
});

const model = () => served.find(({ name }) => name === find('model').value);

function question() {
  const options = { nms_iou: numberIn('nms_iou'), max_detections: numberIn('max_detections') };
  options.multi_label = find('multi_label').checked;
  options.templates = find('templates').value.split('\n').filter((line) => line.trim());
  const prompt = find('prompt').value;
  return { task, model: find('model').value, way: chosen('way'), texts: tokens.texts, prompt, threshold: answer.threshold, options };
}

function numberIn(id) {
  return find(id).value === '' || !find(id).checkValidity() ? '' : Number(find(id).value);
}

function changed() {
  answer.outdate();
  code.render();
}

// The form

function taskChosen() {
  asked[task] = tokens.texts;
  task = chosen('task');
  const { verb, texts, hint } = TASKS[task];
  find('task-hint').textContent = hint;
  find('ask').lastElementChild.textContent = verb;
  find('texts-label').textContent = texts;
  find('ways').hidden = task !== 'detect';
  find('options').hidden = task === 'similarity';
  for (const part of find('options').querySelectorAll('[data-task]')) part.hidden = part.dataset.task !== task;
  tokens.commas = task !== 'similarity';
  tokens.texts = asked[task];
  const fitting = served.filter(({ tasks }) => tasks.includes(task));
  find('model').replaceChildren(...fitting.map(({ name }) => new Option(name, name)));
  find('ask').disabled = !fitting.length;
  wayChosen();
  modelChosen();
  offer(find('examples'), task, exampleChosen);
  if (shown) mark(find('examples'), shown.example?.file);
}

function wayChosen() {
  const prompting = task === 'detect' && chosen('way') === 'prompt';
  find('tokens').hidden = prompting;
  find('prompt').hidden = !prompting;
  find('texts-label').htmlFor = prompting ? 'prompt' : 'token';
  find('texts-label').textContent = prompting ? 'Prompt' : TASKS[task].texts;
  const several = tokens.commas ? 'Press Enter or comma after each.' : 'Press Enter after each.';
  find('texts-hint').textContent = prompting ? 'Phrases, each ended by a full stop.' : several;
  if (prompting && !find('prompt').value) find('prompt').value = sentence(tokens.texts);
  changed();
}

const sentence = (labels) => labels.map((label) => `${label}.`).join(' ');

function modelChosen() {
  const now = model();
  if (!now) {
    find('model-hint').textContent = served.length ? 'No model of this server supports this task.' : '';
    return;
  }
  const proven = now.artefacts.every(({ in_use: used, certified }) => !used || certified);
  find('model-hint').textContent = `${proven ? '' : 'Not certified. '}Weights: ${now.source}; ${now.licence}.`;
  find('model-hint').title = find('model-hint').textContent;
  find('model-hint').classList.toggle('warning', !proven);
  if (now.tasks.includes('detect')) {
    answer.setThreshold(lowestOf(now), now.defaults.box_threshold);
    find('nms_iou').placeholder = now.defaults.nms_iou ?? 'keep all';
    find('max_detections').placeholder = now.defaults.max_detections;
  }
  find('templates').placeholder = now.defaults.templates?.join('\n') ?? '';
  changed();
}

// The image

async function pictureBrought(blob, name, example = null) {
  brought += 1;
  cancel();
  answer.clear();
  find('empty').hidden = true;
  find('shown').hidden = false;
  shown = { blob, name, example, url: example && addressOf(example), visible: false };
  mark(find('examples'), example?.file);
  find('picture-name').textContent = name;
  const mine = shown;
  mine.visible = await picture.present(find('photo'), blob);
  if (mine !== shown) return; // another image was chosen meanwhile
  find('photo').alt = `The image in the request, ${name}`;
  if (!mine.visible) {
    find('shown').hidden = true;
    find('empty').hidden = false;
    find('empty').textContent = `This browser cannot show ${name}; the server may still be able to read it.`;
  }
  code.render();
}

function exampleChosen(example) {
  arriving = fetched(example);
  return arriving;
}

async function fetched(example) {
  for (const name of Object.keys(asked)) asked[name] = example[name] ?? asked[name];
  tokens.texts = asked[task];
  if (example.detect) find('prompt').value = sentence(example.detect);
  brought += 1;
  const mine = brought;
  const blob = await fetch(addressOf(example)).then((response) => (response.ok ? response.blob() : null), () => null);
  if (mine !== brought) return;
  if (blob) await pictureBrought(blob, example.file, example);
  else answer.fail(new Problem({ title: 'The example could not be loaded', detail: 'The server did not send its image.' }));
}

// The request

async function submitted(event) {
  event.preventDefault();
  if (pending) {
    if (event.submitter) cancel();
    return;
  }
  tokens.commit();
  await arriving;
  if (pending) return;
  const now = question();
  const fault = shown ? lacking(now) : 'Choose an image first.';
  if (fault) {
    answer.clear(fault);
    (shown ? find(now.way === 'prompt' && now.task === 'detect' ? 'prompt' : 'token') : find('file')).focus();
    return;
  }
  if (shown.blob.size > limits.max_body_bytes) {
    const detail = `It has ${shown.blob.size} bytes; the limit of a request is ${limits.max_body_bytes}.`;
    answer.fail(new Problem({ title: 'The image is too large', detail }));
    return;
  }
  await send(now);
}

async function send(now) {
  const low = now.task === 'detect' ? lowestOf(model()) : 0;
  const form = formOf(shown.blob, shown.name, fieldsOf({ ...now, threshold: low }));
  const mine = new AbortController();
  pending = mine;
  busy();
  try {
    const body = await ask(now.task, form, mine.signal);
    if (pending === mine) answer.show({ task: now.task, body, texts: now.texts, low });
  } catch (error) {
    if (pending !== mine) return;
    if (!(error instanceof Problem)) throw error;
    answer.fail(error);
    if (error.status === 401 && await askForKey(key.get() ? error.detail : '')) {
      pending = null;
      await send(now);
    }
  } finally {
    if (pending === mine) {
      pending = null;
      idle();
      if (NARROW.matches) find('answer').scrollIntoView();
    }
  }
}

function busy() {
  answer.clear(`${TASKS[task].busy}…`);
  find('frame').setAttribute('aria-busy', 'true');
  find('ask').classList.add('busy');
  find('ask').lastElementChild.textContent = 'Cancel';
}

function idle() {
  find('frame').removeAttribute('aria-busy');
  find('ask').classList.remove('busy');
  find('ask').lastElementChild.textContent = TASKS[task].verb;
}

function cancel() {
  if (!pending) return;
  pending.abort();
  pending = null;
  idle();
  answer.clear('Cancelled.');
}

// The code tabs and the models

function textOf(tab) {
  if (tab === 'json') {
    const body = answer.body;
    return { text: body ? json(body) : 'No response yet.', hint: '' };
  }
  const now = question();
  const image = shown ?? { name: 'image.jpg', url: null };
  const request = { task: now.task, fields: fieldsOf(now), image, keyed: Boolean(key.get()), base: new URL('.', document.baseURI).href };
  return { text: snippets[tab](request), hint: snippets.needs(request) };
}

/** `body` as JSON with each list of numbers on one line; strings contain no bare line breaks. */
function json(body) {
  const oneLine = (_, numbers) => `[${numbers.replace(/\s+/g, ' ')}]`;
  return JSON.stringify(body, null, 1).replace(/\[\n\s*([-+.,\de\s]+?)\n\s*\]/g, oneLine);
}

async function loadModels() {
  try {
    const { models: all, limits: bounds } = await models();
    [served, limits] = [all, bounds];
    if (key.get()) {
      find('key-button').hidden = false;
      find('docs').hidden = !(await isOpen('docs')); // a link sends no key
    }
    taskChosen();
    if (served.length) return answer.clear('The result appears here.');
    answer.clear('The models are being loaded…');
    return setTimeout(loadModels, POLL_MS);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    answer.fail(error);
    if (error.status === 401 && await askForKey(key.get() ? error.detail : '')) return loadModels();
    return undefined;
  }
}

for (const radio of find('tasks').querySelectorAll('input')) {
  radio.addEventListener('change', () => {
    cancel();
    answer.clear();
    taskChosen();
    const suited = EXAMPLES.find((example) => example[task]);
    if (shown?.example && !shown.example[task]) exampleChosen(suited);
  });
}
for (const radio of find('ways').querySelectorAll('input')) radio.addEventListener('change', wayChosen);
find('model').addEventListener('change', () => {
  answer.clear();
  modelChosen();
});
for (const id of ['prompt', 'max_detections', 'nms_iou', 'multi_label', 'templates']) find(id).addEventListener('input', changed);
find('question').addEventListener('submit', submitted);
find('key-button').addEventListener('click', async () => { if (await askForKey()) loadModels(); });
find('download').addEventListener('click', async () => {
  picture.save(await drawn(find('photo'), answer.shown), `${shown.name.replace(/\.\w+$/, '')}-drawn.png`);
});
picture.receive({
  frame: find('frame'),
  input: find('file'),
  onPicture: (file) => pictureBrought(file, file.name || 'pasted.png'),
  onOther: () => answer.fail(new Problem({ title: 'This file is not an image', detail: 'Use a JPEG, PNG, WebP, GIF, BMP or TIFF file.' })),
});
taskChosen();
await exampleChosen(EXAMPLES[0]);
await loadModels();
