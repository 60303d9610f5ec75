// Pictures: chosen, dropped or pasted, with a small copy of each.

const THUMB_HEIGHT = 128; // pixels: twice what is shown, for dense screens

/**
 * A picture to ask about: its bytes, name, address (where it came from one), its example (or null), and the replies to
 * the questions asked about it, by their keys. `src` and `thumb` are URLs of it and of a small copy, '' if the browser
 * cannot show it.
 */
export async function pictureOf(blob, name, { url = null, example = null } = {}) {
  return { blob, name, url, example, src: URL.createObjectURL(blob), thumb: await thumbOf(blob), replies: new Map() };
}

/** Free what the browser holds for `picture`. */
export function release({ src, thumb }) {
  for (const url of [src, thumb]) URL.revokeObjectURL(url);
}

async function thumbOf(blob) {
  try {
    const bitmap = await createImageBitmap(blob, { resizeHeight: THUMB_HEIGHT, resizeQuality: 'medium' });
    const canvas = document.createElement('canvas');
    Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
    canvas.getContext('2d').drawImage(bitmap, 0, 0);
    bitmap.close();
    return URL.createObjectURL(await new Promise((resolve) => canvas.toBlob(resolve, 'image/webp')));
  } catch {
    return '';
  }
}

/** Call `onFiles` with the images, and the number of other files, that a visitor chooses, drops or pastes. */
export function receive({ place, input, onFiles }) {
  const take = (files) => {
    const images = [...files].filter(({ type, name }) => type.startsWith('image/') || /\.(tiff?|heic|heif|avif)$/i.test(name));
    onFiles(images, files.length - images.length);
  };
  input.addEventListener('change', () => {
    const files = [...input.files];
    input.value = ''; // so that the same file can be chosen again
    if (files.length) take(files);
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
      place.classList.toggle('over', !left && kind !== 'drop');
      if (kind === 'drop') take(event.dataTransfer.files);
    });
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
