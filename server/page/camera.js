// The dialog that takes a picture with the camera; the picture stays in the browser until it is asked about.

const find = (id) => document.getElementById(id);
const dialog = find('camera-dialog');
const WHY = {
  NotAllowedError: 'The browser was not allowed to use the camera.',
  NotFoundError: 'There is no camera on this device.',
  NotReadableError: 'The camera is in use by another program.',
};
let facing = 'environment'; // of a phone: the camera on its back
let stream = null;

/** True where the browser lets this page use a camera: on https or localhost. */
export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** Open the dialog; `onPicture` is called with a JPEG blob and its name. */
export async function takePicture(onPicture) {
  find('shoot').onclick = async () => {
    onPicture(await frameOf(find('video')), `camera-${timeOfDay()}.jpg`);
    dialog.close();
  };
  dialog.showModal();
  await start();
}

async function start() {
  stop();
  find('camera-problem').textContent = '';
  find('shoot').disabled = true;
  try {
    const wanted = { facingMode: facing, width: { ideal: 1920 }, height: { ideal: 1080 } };
    stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
    if (!dialog.open) return stop(); // closed while the browser asked
    find('video').srcObject = stream;
    await find('video').play();
    find('shoot').disabled = false;
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === 'videoinput');
    find('camera-turn').hidden = cameras.length < 2;
    find('shoot').focus();
  } catch (error) {
    if (error.name !== 'AbortError') find('camera-problem').textContent = WHY[error.name] ?? error.message;
  }
  return undefined;
}

function stop() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  find('video').srcObject = null;
}

function frameOf(video) {
  const canvas = document.createElement('canvas');
  Object.assign(canvas, { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext('2d').drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, 'image/jpeg', 0.92));
}

const timeOfDay = () => new Date().toTimeString().slice(0, 8).replaceAll(':', '');

dialog.addEventListener('close', stop);
find('camera-cancel').addEventListener('click', () => dialog.close());
find('camera-turn').addEventListener('click', () => {
  facing = facing === 'user' ? 'environment' : 'user';
  start();
});
