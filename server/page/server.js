// API calls. Every failure is a `Problem`, except for a cancelled request.

const KEY = 'openset-api-key';

/** The visitor's API key, in this tab's session storage only. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** A problem document of the server (RFC 9457), or the reason why there is no response. */
export class Problem extends Error {
  constructor({ title, detail, status = 0, errors = [], request_id: requestId = '' }, retryAfter = '') {
    super(detail);
    Object.assign(this, { title, detail, status, errors, requestId, retryAfter });
  }
}

/** The models of the server, and the limits of a request. */
export const models = () => json('models', {});

/** Send the form `body` to `path`, and return the response; `signal` cancels it. */
export const ask = (path, body, signal) => json(path, { method: 'POST', body, signal });

/**
 * The picture at `url`, which the server downloads, as a PNG blob: detection with a threshold that no score exceeds draws
 * nothing on it.
 */
export async function pictureAt(url, signal) {
  const fields = { image_url: url, labels: ['picture'], box_threshold: 1, max_detections: 1 };
  const body = JSON.stringify(fields);
  const options = { method: 'POST', body, signal, headers: { Accept: 'image/png', 'Content-Type': 'application/json' } };
  return request('detect', options, 'blob');
}

/** True if `path` needs no key. */
export const isOpen = (path) => fetch(path).then(({ status }) => status !== 401, () => true);

const json = (path, options) => request(path, { ...options, headers: { Accept: 'application/json' } }, 'json');

async function request(path, options, kind) {
  const headers = key.get() ? { ...options.headers, Authorization: `Bearer ${key.get()}` } : options.headers;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
    if (response.ok) return await response[kind]();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    const detail = 'No response: it is stopped or unreachable, or refused the request before reading all of it.';
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
  const title = `The server answered ${response.status}`; // a proxy may answer in its own format
  return new Problem({ title, detail: response.statusText, status: response.status }, retryAfter);
}
