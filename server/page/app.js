// The page: brings pictures, form, answers, history and link together.

import { tell } from './about.js';
import { Answer } from './answer.js';
import { keyOf } from './asking.js';
import { Code, copy, json } from './code.js';
import { withDownloads } from './downloads.js';
import { EXAMPLES } from './examples.js';
import { Film } from './film.js';
import { Form } from './form.js';
import { withFullScreen } from './fullscreen.js';
import { askForKey } from './keydialog.js';
import { fragmentOf, questionIn } from './link.js';
import { Past } from './past.js';
import { release } from './picture.js';
import { TASKS, fieldsOf, lacking } from './question.js';
import { entriesOf, replyOf } from './replies.js';
import { Sender } from './sending.js';
import { Problem, isOpen, key, models } from './server.js';
import * as snippets from './snippets.js';
import { Sources } from './sources.js';
import { twin } from './twins.js';
import { View } from './view.js';
import { Viewer } from './viewer.js';

const find = (id) => document.getElementById(id);
const SUFFIXES = ['', '-2']; // of the ids that belong to the first and to the second model
const POLL_MS = 1000;
const LINK_MS = 300; // browsers bound how often an address may change
const ZOOM_STEP = 1.5;
const LOADING = 'The models are being loaded…';
const NARROW = matchMedia('(max-width: 54rem)'); // as in page.css: the result is below the form

for (const id of ['frame', 'answer']) twin(id, SUFFIXES[1]);
const view = new View(() => viewers.forEach((viewer) => viewer.place()));
const viewers = SUFFIXES.map((suffix) => new Viewer(find(`frame${suffix}`), view));
const answers = SUFFIXES.map((suffix, place) => new Answer(suffix, viewers[place], { onMove: changed }));
const code = new Code(textOf);
const film = new Film(find('film'), { onShow: pictureShown, told: badgeOf });
const past = new Past({ section: find('past'), place: find('past-list') }, pastChosen);
const sender = new Sender(render);
const sources = new Sources({ onBring: bring, onExample: (example) => form.suggest(example), onFault: say });
const form = new Form({ onChange: changed, onTask: taskChanged, onModels: modelsChanged, onEnter: () => find('question').requestSubmit() });

const held = new Set(); // pictures that the browser keeps
let limits = {};
let words = LOADING; // in place of an answer
let linked = questionIn(location.hash); // the question that the page was opened with, until the models are known
let linking = 0;

/** The questions, one for each model that is asked. */
function questions() {
  const asked = form.question;
  return form.asked.map(({ name }, place) => {
    const threshold = asked.task === 'detect' ? answers[place].threshold : '';
    return { ...asked, model: name, box_threshold: threshold };
  });
}

/** The question as a link has it: both thresholds, and the example. */
function linkedQuestion() {
  const [first, second] = questions();
  const compared = second ? { compare_threshold: second.box_threshold } : {};
  return { ...form.question, box_threshold: first?.box_threshold, ...compared, example: film.current?.example?.file };
}

const link = () => new URL(fragmentOf(linkedQuestion()), location.href).href;

// What is shown

function changed() {
  render();
  clearTimeout(linking);
  linking = setTimeout(() => {
    if (!linked && navigator.userActivation?.hasBeenActive !== false) history.replaceState(null, '', link());
  }, LINK_MS);
}

function render() {
  const asked = questions();
  for (const [place, answer] of answers.entries()) {
    const reply = replyOf(film.current, asked[place], { earlier: !sender.busy });
    const stale = Boolean(reply) && reply.key !== keyOf(asked[place]);
    answer.present(reply, { words: sender.busy ? `${TASKS[form.task].busy}…` : words, stale, busy: sender.waits(film.current) });
  }
  film.update();
  code.render();
  showProgress();
}

function showProgress() {
  const { verb, busy } = TASKS[form.task];
  const several = film.pictures.length > 1;
  for (const id of ['film', 'film-tools']) find(id).hidden = !several;
  for (const { frame } of viewers) {
    if (sender.waits(film.current)) frame.setAttribute('aria-busy', 'true');
    else frame.removeAttribute('aria-busy');
  }
  find('ask').classList.toggle('busy', sender.busy);
  find('ask').setAttribute('aria-disabled', String(sender.busy));
  find('cancel').hidden = !sender.busy;
  const all = several ? `${verb} in ${film.pictures.length} images` : verb;
  find('ask').lastElementChild.textContent = sender.busy ? `${busy}… ${sender.progress}`.trim() : all;
}

function say(text) {
  words = text;
  render();
  answers[0].say(text);
}

function badgeOf(picture) {
  if (sender.waits(picture)) return { text: '', kind: 'waiting' };
  const reply = replyOf(picture, questions()[0]);
  if (!reply) return { text: '', kind: '' };
  if (reply.problem) return { text: '!', kind: 'failed' };
  return { text: reply.task === 'detect' ? String(answers[0].above(reply).length) : '✓', kind: 'found' };
}

// Changes of the form and of the pictures

function modelsChanged() {
  const asked = form.asked;
  const comparing = asked.length > 1;
  document.body.classList.toggle('comparing', comparing);
  for (const id of ['frame-2', 'answer-2']) find(id).hidden = !comparing;
  for (const [place, model] of asked.entries()) answers[place].use(model, { named: comparing });
  if (comparing && film.current) viewers[1].show(film.current);
  tell(find('model-about'), asked, form.models.length ? 'No model of this server supports this task.' : LOADING);
  find('ask').disabled = !asked.length;
}

function taskChanged() {
  cancel();
  sources.offer(form.task, film.current?.example);
  const suited = EXAMPLES.find((example) => example[form.task]);
  if (film.current?.example && !film.current.example[form.task]) sources.bringExample(suited);
}

function bring(pictures) {
  cancel();
  words = form.models.length ? 'The result appears here.' : LOADING;
  film.add(pictures);
}

async function pictureShown(picture) {
  view.fit();
  find('picture-name').textContent = picture?.name ?? '';
  sources.mark(picture?.example);
  forget();
  render();
  if (!picture) return viewers.forEach((viewer) => viewer.clear());
  await Promise.all(viewers.map((viewer) => viewer.show(picture)));
  return film.current === picture && render();
}

/** Free the pictures that are neither in the film nor in the history. */
function forget() {
  const kept = new Set([...film.pictures, ...past.entries.flatMap(({ pictures }) => pictures)]);
  for (const picture of [...held, ...kept]) {
    if (kept.has(picture)) held.add(picture);
    else if (held.delete(picture)) release(picture);
  }
}

// Requests

async function submitted(event) {
  event.preventDefault();
  if (sender.busy) return; // a double click asks once
  form.tokens.commit();
  await sources.arriving;
  if (sender.busy) return;
  const fault = film.current ? lacking(form.question) : 'Choose an image first.';
  if (fault) {
    say(fault);
    (film.current ? form : find('file')).focus();
    return;
  }
  const pictures = [film.current, ...film.pictures.filter((picture) => picture !== film.current)];
  const ended = await sender.send(pictures, questions(), form.asked, limits.max_body_bytes);
  if (ended instanceof Problem) say(`${ended.title}. ${ended.detail}`);
  if (ended === true) remember();
  if (ended && NARROW.matches) find('answer').scrollIntoView();
}

function cancel() {
  if (sender.cancel()) say('Cancelled.');
}

// History and link

function remember() {
  const replies = film.pictures.map((picture) => replyOf(picture, questions()[0])).filter((reply) => reply?.body);
  if (!replies.length) return;
  const found = replies.reduce((sum, reply) => sum + (reply.task === 'detect' ? answers[0].above(reply).length : 0), 0);
  const parts = [
    film.pictures.length > 1 ? `${film.pictures.length} images` : '',
    form.task === 'detect' ? `${found} found` : TASKS[form.task].verb,
    form.asked.map(({ name }) => name).join(' and '),
  ];
  past.add({ question: linkedQuestion(), pictures: [...film.pictures], summary: parts.filter(Boolean).join(' · ') });
  forget();
}

function pastChosen({ question, pictures }) {
  cancel();
  sources.dropArriving();
  restore(question);
  film.set(pictures);
  sources.offer(form.task, film.current.example);
}

function restore(question) {
  form.restore(question);
  for (const [place, name] of ['box_threshold', 'compare_threshold'].entries()) {
    if (question[name] !== undefined) answers[place].threshold = question[name];
  }
  changed();
}

async function linkOpened(question) {
  const example = EXAMPLES.find(({ file }) => file === question.example);
  if (example && film.current?.example !== example) await sources.bringExample(example);
  linked = null;
  restore(question);
  sources.offer(form.task, film.current?.example);
}

// Code, downloads, models

function textOf(tab) {
  if (tab === 'json') {
    const { body } = answers[0];
    return { text: body ? json(body) : 'No response yet.', hint: '' };
  }
  const [question] = questions();
  if (!question) return { text: LOADING, hint: '' };
  const image = film.current ?? { name: 'image.jpg', url: null };
  const request = { task: form.task, fields: fieldsOf(question), image, keyed: Boolean(key.get()), base: new URL('.', document.baseURI).href };
  return { text: snippets[tab](request), hint: snippets.needs(request) };
}

function downloaded(place) {
  const question = questions()[place];
  const replies = film.pictures.map((picture) => [picture, replyOf(picture, question, { earlier: true })]);
  const { shown } = answers[place];
  return { model: question.model, image: viewers[place].image, name: film.current.name, detections: shown, entries: entriesOf(replies, answers[place]) };
}

async function loadModels() {
  try {
    const answer = await models();
    limits = answer.limits;
    sources.downloads = Boolean(answer.url_images);
    if (key.get()) {
      find('key-button').hidden = false;
      find('docs').hidden = !(await isOpen('docs')); // a link sends no key
    }
    words = answer.models.length ? 'The result appears here.' : LOADING;
    form.serve(answer.models);
    if (!answer.models.length) return setTimeout(loadModels, POLL_MS);
    return linked ? await linkOpened(linked) : undefined;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(`${error.title}. ${error.detail}`);
    return error.status === 401 && await askForKey(key.get() ? error.detail : '') ? loadModels() : undefined;
  }
}

for (const [place, suffix] of SUFFIXES.entries()) withDownloads(find(`downloads${suffix}`), () => downloaded(place));
find('question').addEventListener('submit', submitted);
find('ask').addEventListener('click', (event) => event.detail > 1 && event.preventDefault()); // the end of a double click
find('cancel').addEventListener('click', cancel);
document.addEventListener('keydown', ({ key: pressed }) => pressed === 'Escape' && cancel());
find('key-button').addEventListener('click', async () => { if (await askForKey()) loadModels(); });
find('zoom-in').addEventListener('click', () => viewers[0].zoom(ZOOM_STEP));
find('zoom-out').addEventListener('click', () => viewers[0].zoom(1 / ZOOM_STEP));
find('zoom-fit').addEventListener('click', () => view.fit());
withFullScreen(find('full'), find('picture'));
find('film-remove').addEventListener('click', () => film.remove(film.current));
find('film-keep').addEventListener('click', () => film.set([film.current]));
find('past-clear').addEventListener('click', () => { past.clear(); forget(); });
find('link').addEventListener('click', () => copy(link(), find('link')));
addEventListener('hashchange', () => {
  const question = questionIn(location.hash);
  if (question) linkOpened(question);
});
form.serve([]);
sources.offer(form.task, null);
await sources.bringExample(EXAMPLES.find(({ file }) => file === linked?.example));
await loadModels();
