// The image of the request: chosen, dropped or pasted, and displayed.

/** Call `onPicture` with each image file that a visitor chooses, drops or pastes, `onOther` for other files. */
export function receive({ frame, input, onPicture, onOther }) {
  const take = (files) => {
    const file = [...files].find(({ type, name }) => type.startsWith('image/') || /\.tiff?$/i.test(name));
    if (file) onPicture(file);
    else onOther();
  };
  input.addEventListener('change', () => {
    if (input.files.length) take(input.files);
    input.value = ''; // so that the same file can be chosen again
  });
  document.addEventListener('paste', (event) => {
    const { files } = event.clipboardData;
    // Office programs copy an image along with the text: in a field, the text is meant.
    if (!files.length || (event.target.matches('input, textarea') && event.clipboardData.getData('text/plain'))) return;
    event.preventDefault();
    take(files);
  });
  for (const kind of ['dragenter', 'dragover', 'dragleave', 'drop']) {
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer.types.includes('Files')) return; // text that is dragged
      event.preventDefault(); // the browser would open the file and leave the page
      const left = kind === 'dragleave' && event.relatedTarget === null;
      frame.classList.toggle('over', !left && kind !== 'drop');
      if (kind === 'drop') take(event.dataTransfer.files);
    });
  }
}

/** Show `blob` in the image `element`; false if the browser does not support its format (the server reads more). */
export async function present(element, blob) {
  const old = element.src;
  element.src = URL.createObjectURL(blob);
  if (old) URL.revokeObjectURL(old);
  try {
    await element.decode();
    element.parentElement.style.setProperty('--ratio', element.naturalWidth / element.naturalHeight);
    return true;
  } catch {
    return false;
  }
}

/** Download `blob` as a file. */
export function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
