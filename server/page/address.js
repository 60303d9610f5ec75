// The dialog that brings a picture by its address. The server downloads it, with its own guards: the page loads nothing
// from elsewhere.

import { stemOf } from './formats.js';
import { Problem, pictureAt } from './server.js';

const find = (id) => document.getElementById(id);
const dialog = find('address-dialog');
let request = new AbortController();

/** Open the dialog; `allowed` tells if the server downloads, `onPicture` gets the blob, its name and its address. */
export function bringByAddress({ allowed, onPicture }) {
  find('address-off').hidden = allowed;
  for (const id of ['address', 'address-bring']) find(id).disabled = !allowed;
  find('address-problem').textContent = '';
  dialog.querySelector('form').onsubmit = async (event) => {
    event.preventDefault();
    const url = find('address').value.trim();
    request = new AbortController();
    find('address-problem').textContent = '';
    find('address-bring').classList.add('busy');
    try {
      onPicture(await pictureAt(url, request.signal), nameIn(url), url);
      find('address').value = '';
      dialog.close();
    } catch (error) {
      if (error instanceof Problem) find('address-problem').textContent = error.errors[0]?.reason ?? error.detail;
      else if (error.name !== 'AbortError') throw error;
    } finally {
      find('address-bring').classList.remove('busy');
    }
  };
  dialog.showModal();
}

function nameIn(url) {
  const last = new URL(url).pathname.split('/').at(-1);
  try {
    return `${stemOf(decodeURIComponent(last)) || 'picture'}.png`; // as the server sends it
  } catch {
    return 'picture.png';
  }
}

dialog.addEventListener('close', () => request.abort());
find('address-cancel').addEventListener('click', () => dialog.close());
