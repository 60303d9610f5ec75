// Talks to the server. Whatever keeps a request from its answer is a `Problem`, but for a request that was cancelled.

const KEY = 'openset-api-key';

/** The visitor's API key: in this tab's session storage alone. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** What the server said is wrong (RFC 9457), or what kept it from saying anything. */
export class Problem extends Error {
  constructor({ title, detail, status = 0, errors = [], request_id: requestId = '' }, retryAfter = '') {
    super(detail);
    Object.assign(this, { title, detail, status, errors, requestId, retryAfter });
  }
}

/** The models that are served, and the bounds of a request. */
export const models = () => json('models', {});

/** The answer to `body`, a form, sent to `path`; `signal` cancels it. */
export const ask = (path, body, signal) => json(path, { method: 'POST', body, signal });

/** Whether `path` can be had without a key. */
export const isOpen = (path) => fetch(path).then(({ status }) => status !== 401, () => true);

async function json(path, options) {
  const headers = { Accept: 'application/json' };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
    if (response.ok) return await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    const detail = 'No answer came: it has stopped, cannot be reached, or refused the request before reading it all.';
    throw new Problem({ title: 'The server did not answer', detail });
  }
  throw await problemOf(response);
}

async function problemOf(response) {
  const retryAfter = response.headers.get('Retry-After') ?? '';
  try {
    const document = await response.json();
    if (document.title) return new Problem(document, retryAfter);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
  }
  const title = `The server answered ${response.status}`; // a proxy between may answer in its own way
  return new Problem({ title, detail: response.statusText, status: response.status }, retryAfter);
}
