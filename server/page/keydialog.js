// The dialog for the API key.

import { key } from './server.js';

const find = (id) => document.getElementById(id);
const dialog = find('key-dialog');
let waiting = null;

/** Ask for a key, showing `reason`; resolves to true if one is given. Concurrent calls share the open dialog. */
export function askForKey(reason = '') {
  find('key-problem').textContent = reason;
  find('key').value = '';
  find('key-forget').hidden = !key.get();
  find('key-button').hidden = false;
  if (!dialog.open) dialog.showModal();
  waiting ??= new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      waiting = null;
      resolve(dialog.returnValue === 'given');
    }, { once: true });
  });
  dialog.returnValue = '';
  return waiting;
}

dialog.querySelector('form').addEventListener('submit', (event) => {
  event.preventDefault();
  key.set(find('key').value.trim());
  dialog.close('given');
});
find('key-cancel').addEventListener('click', () => dialog.close(''));
find('key-forget').addEventListener('click', () => {
  key.forget();
  dialog.close('');
});
