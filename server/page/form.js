// The form: reads a question from its fields, puts one into them, and offers what fits the task and the model.

import { TASKS } from './question.js';
import { Tokens } from './tokens.js';

const find = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const NUMBERS = ['nms_iou', 'max_detections', 'text_threshold', 'shorter'];

/** The form; `onChange` is called after each change, `onTask` and `onModels` after these changed (before it). */
export class Form {
  task = chosen('task');
  models = [];
  #texts = { detect: [], classify: [], similarity: [] }; // last entered for each task

  constructor({ onChange, onTask, onModels, onEnter }) {
    Object.assign(this, { onChange, onTask, onModels });
    this.tokens = new Tokens(find('token-list'), find('token'), { onChange, onEnter });
    for (const radio of find('tasks').querySelectorAll('input')) {
      radio.addEventListener('change', () => {
        this.#taskChosen();
        onTask();
      });
    }
    for (const radio of find('ways').querySelectorAll('input')) radio.addEventListener('change', () => this.#wayChosen());
    for (const id of ['model', 'model-2']) find(id).addEventListener('change', () => this.#modelChosen());
    for (const id of [...NUMBERS, 'prompt', 'multi_label', 'templates']) find(id).addEventListener('input', onChange);
    find('options').addEventListener('invalid', () => { find('options').open = true; }, { capture: true }); // to be shown
    find('prompt').addEventListener('keydown', (event) => event.key === 'Enter' && (event.ctrlKey || event.metaKey) && onEnter());
  }

  /** The question, but for its thresholds. */
  get question() {
    const numbers = NUMBERS.map((id) => [id, numberIn(id)]);
    return {
      task: this.task, model: find('model').value, compare: find('model-2').value,
      way: chosen('way'), texts: this.tokens.texts, prompt: find('prompt').value, ...Object.fromEntries(numbers),
      multi_label: find('multi_label').checked, templates: find('templates').value.split('\n').filter((line) => line.trim()),
    };
  }

  /** Put `question` into the form; fields that it lacks stay as they are, and models that are not served. */
  restore(question) {
    const radio = (name, value) => [...document.querySelectorAll(`input[name=${name}]`)].find((one) => one.value === value);
    if (question.task !== this.task) {
      radio('task', question.task).checked = true;
      this.#taskChosen();
    }
    for (const [id, name] of [['model', question.model], ['model-2', question.compare ?? '']]) {
      if ([...find(id).options].some(({ value }) => value === name)) find(id).value = name;
    }
    this.#modelChosen();
    const way = radio('way', question.way);
    if (way) way.checked = true;
    if (question.prompt !== undefined) find('prompt').value = question.prompt;
    this.tokens.texts = question.texts ?? [];
    for (const id of NUMBERS) find(id).value = question[id] ?? '';
    find('multi_label').checked = Boolean(question.multi_label);
    find('templates').value = (question.templates ?? []).join('\n');
    find('options').open ||= [...NUMBERS, 'multi_label'].some((id) => question[id]) || Boolean(question.templates?.length);
    this.#wayChosen();
  }

  /** Offer these models. */
  serve(models) {
    this.models = models;
    this.#taskChosen();
  }

  /** The served models that are asked: one, or two to compare. */
  get asked() {
    const { model, compare } = this.question;
    return [model, compare].filter(Boolean).map((name) => this.models.find((one) => one.name === name));
  }

  /** Name what an example shows, for every task. */
  suggest(example) {
    for (const task of Object.keys(this.#texts)) this.#texts[task] = example[task] ?? this.#texts[task];
    this.tokens.texts = this.#texts[this.task];
    if (example.detect) find('prompt').value = sentence(example.detect);
    this.onChange();
  }

  /** Focus the field that lacks something. */
  focus() {
    find(find('prompt').hidden ? 'token' : 'prompt').focus();
  }

  #taskChosen() {
    this.#texts[this.task] = this.tokens.texts;
    this.task = chosen('task');
    find('task-hint').textContent = TASKS[this.task].hint;
    find('ways').hidden = this.task !== 'detect';
    find('options').hidden = this.task === 'similarity';
    for (const part of find('options').querySelectorAll('[data-task]')) part.hidden = part.dataset.task !== this.task;
    this.tokens.commas = this.task !== 'similarity';
    this.tokens.texts = this.#texts[this.task];
    const names = this.models.filter(({ tasks }) => tasks.includes(this.task)).map(({ name }) => name);
    find('model').replaceChildren(...names.map((name) => new Option(name, name)));
    find('model-2').replaceChildren(new Option('No other', ''), ...names.map((name) => new Option(name, name)));
    find('compare-field').hidden = names.length < 2;
    this.#wayChosen();
    this.#modelChosen();
  }

  #wayChosen() {
    const prompting = this.task === 'detect' && chosen('way') === 'prompt';
    find('tokens').hidden = prompting;
    find('prompt').hidden = !prompting;
    find('texts-label').htmlFor = prompting ? 'prompt' : 'token';
    find('texts-label').textContent = prompting ? 'Prompt' : TASKS[this.task].texts;
    const several = this.tokens.commas ? 'Press Enter or comma after each.' : 'Press Enter after each.';
    find('texts-hint').textContent = prompting ? 'Phrases, each ended by a full stop.' : several;
    if (prompting && !find('prompt').value) find('prompt').value = sentence(this.tokens.texts);
    this.onChange();
  }

  #modelChosen() {
    if (find('model-2').value === find('model').value) find('model-2').value = '';
    for (const option of find('model-2').options) option.disabled = option.value === find('model').value && option.value !== '';
    const [model] = this.asked;
    if (model) {
      find('nms_iou').placeholder = model.defaults.nms_iou ?? 'keep all';
      for (const id of ['max_detections', 'text_threshold']) find(id).placeholder = model.defaults[id] ?? '';
      find('shorter').placeholder = model.limits.max_shorter ?? '';
      find('templates').placeholder = model.defaults.templates?.join('\n') ?? '';
    }
    this.onModels();
    this.onChange();
  }
}

const sentence = (labels) => labels.map((label) => `${label}.`).join(' ');

function numberIn(id) {
  return find(id).value === '' || !find(id).checkValidity() ? '' : Number(find(id).value);
}
